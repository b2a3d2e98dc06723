// The audit log: who got which token, and who was refused and why.

package server

import (
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/observe"
)

// audit writes one line for the first of equal decisions, and again when one
// still occurs a while later. At thousands of requests a second, all of them
// would drown the log; the metrics count them. With verbosity 2 each is written.
//
// No line holds a token; client ids are shortened.
type audit struct {
	log logr.Logger

	mu   sync.RWMutex
	seen map[decision]time.Time
}

// decision is what equal lines have in common.
type decision struct {
	address                               addr
	caller                                attest.Caller
	namespace, identity, resource, reason string
	status                                int
}

const (
	// sayAgain is when an equal decision is worth a line again.
	sayAgain = 10 * time.Minute
	// maxSeen bounds what is remembered; a node has some hundred pods with a
	// handful of resources each.
	maxSeen = 8192
)

func newAudit(log logr.Logger) *audit {
	return &audit{log: log, seen: map[decision]time.Time{}}
}

// token takes the answer to a token request.
func (a *audit) token(res *result, took time.Duration) {
	all := a.log.V(2).Enabled()
	d := decision{address: res.address, status: res.status, reason: res.reason, caller: res.caller}
	if res.reason == "" {
		// Of refusals one line must do for all resources: a pod could fill the
		// log by asking for ever new ones.
		d.resource = res.resource
	}
	if res.identity != nil {
		d.namespace, d.identity = res.identity.Namespace, res.identity.Name
	}
	if !all && !a.worth(d, res.began) {
		return
	}
	values := []any{"status", res.status, "address", res.address.String(), "resource", res.resource, "seconds", took.Seconds()}
	if res.caller.Name != "" {
		values = append(values, "pod", res.caller.String(), "uid", res.caller.UID)
	}
	if res.identity != nil {
		values = append(values, "identity", d.namespace+"/"+d.identity, "clientID", observe.ShortID(res.identity.Spec.ClientID))
	}
	if res.reason == "" {
		a.log.Info("token issued", values...)
		return
	}
	values = append(values, "reason", res.reason)
	if res.problem != nil {
		values = append(values, "message", res.problem.Description)
	}
	if res.detail != "" {
		values = append(values, "detail", res.detail)
	}
	a.log.Info("token not issued", values...)
}

// worth tells whether the decision is worth a line, and notes that it was made.
func (a *audit) worth(d decision, now time.Time) bool {
	a.mu.RLock()
	last, ok := a.seen[d]
	a.mu.RUnlock()
	if ok && now.Sub(last) < sayAgain {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if last, ok := a.seen[d]; ok && now.Sub(last) < sayAgain {
		return false
	}
	if len(a.seen) >= maxSeen {
		clear(a.seen)
	}
	a.seen[d] = now
	return true
}
