// The outcome of the writes of one Patch: whether Azure may have accepted one whose answer was
// lost.

package compute

import (
	"errors"
	"net"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// writeOutcome records what is known about the writes of one Patch.
type writeOutcome struct {
	lost     bool // the answer to a write is missing, or leaves open whether Azure accepted it
	accepted bool // Azure accepted a write
	later    bool // and answered that it is not done yet (201, 202)
}

// retryable reports whether a write was refused only because the group had changed since the read,
// by another writer or by a previous write whose answer was lost.
func (s *writeOutcome) retryable(err error) bool {
	return !s.accepted && !IsLocked(err) && (changedMeanwhile(err) || s.lost && IsConflict(err))
}

// mark records in the error whether something may have changed anyway: see Definite.
func (s *writeOutcome) mark(err error) error {
	if r, ok := errors.AsType[*refusal](err); ok {
		r.sent = r.sent || s.lost || s.accepted
	}
	return err
}

// outcomePolicy sees every write and its answer. It converts 201 and 202 to 200 and keeps their
// headers. Older API versions use these codes where the SDK accepts only 200, and its poller goes
// by the headers.
type outcomePolicy struct{ sent *writeOutcome }

// Do implements policy.Policy.
func (p outcomePolicy) Do(req *policy.Request) (*http.Response, error) {
	resp, err := req.Next()
	switch {
	case req.Raw().Method != http.MethodPatch:
	case err != nil:
		p.sent.lost = p.sent.lost || !neverDialed(err)
	case resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode >= http.StatusInternalServerError:
		p.sent.lost = true
	case resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusAccepted:
		p.sent.accepted, p.sent.later = true, true
		resp.StatusCode, resp.Status = http.StatusOK, "200 OK"
	case resp.StatusCode < http.StatusBadRequest:
		p.sent.accepted = true
	}
	return resp, err
}

// neverDialed reports whether no connection was established.
func neverDialed(err error) bool {
	network, ok := errors.AsType[*net.OpError](err)
	return ok && network.Op == "dial"
}
