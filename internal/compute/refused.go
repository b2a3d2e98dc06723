package compute

// What a refusal of Azure means for what the caller does next.

import (
	"errors"
	"net/http"

	"github.com/podid-io/podid/internal/ascii"
)

// IsRefused reports that ARM looked at the request and said no, so that the same request will get
// the same answer until something changes: what it asks for is at fault, not the moment, the
// network or podid's rights on the node group. A caller that asked for several identities can find
// the one at fault by asking for fewer, when BadIdentities does not name it.
func IsRefused(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	if !ok || r.conflict() || r.notARM() {
		return false
	}
	switch r.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return r.linked()
	case http.StatusNotFound:
		return len(r.identities) > 0
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	default:
		if r.status < http.StatusBadRequest {
			// A long-running operation that was accepted and then failed answers 200. ARM checks
			// the identities before it accepts; what fails later is most often a machine.
			return r.aboutIdentities()
		}
		return r.status < http.StatusInternalServerError
	}
}

// Definite reports that a failed Patch certainly changed nothing: Azure refused it, before it
// accepted anything of it. Not so an answer that got lost, one of 5xx, a time-out, and an operation
// that failed; nor, to be careful, a conflict (but a lock is definite).
func Definite(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	if !ok || r.sent || r.notARM() || r.status < http.StatusBadRequest || r.status >= http.StatusInternalServerError {
		return false
	}
	switch r.status {
	case http.StatusRequestTimeout:
		return false
	case http.StatusConflict, http.StatusPreconditionFailed:
		return r.locked()
	default:
		return !r.conflict()
	}
}

// IsLocked reports that a person's lock on the node group, its resource group or its subscription
// forbids every change of it: it stays so until a person removes the lock. It is an IsConflict as
// well.
func IsLocked(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.locked()
}

// locked knows ARM's code for it.
func (r *refusal) locked() bool { return ascii.EqualFold(r.code, "ScopeLocked") }
