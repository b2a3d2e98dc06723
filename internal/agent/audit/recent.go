// The decisions that were logged recently.

package audit

import (
	"strings"
	"sync"
	"time"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/reason"
)

const (
	// repeatAfter is how long a decision suppresses equal ones.
	repeatAfter = 10 * time.Minute
	// maxRecent bounds the decisions in memory. A node has some hundred pods that use a few
	// resources each.
	maxRecent = 8192
)

// decision is what equal entries have in common.
type decision struct {
	origin                                  attest.Origin
	caller                                  attest.Caller
	reason                                  reason.Reason
	namespace, identity, resource, endpoint string
	status                                  int
}

// recent remembers decisions.
type recent struct {
	mu   sync.RWMutex
	seen map[string]map[decision]time.Time // by namespace of the caller
	n    int                               // decisions in seen
}

func newRecent() *recent { return &recent{seen: map[string]map[decision]time.Time{}} }

// add records a decision. It reports whether no equal one was recorded within repeatAfter.
func (r *recent) add(d decision, now time.Time) bool {
	r.mu.RLock()
	known := r.has(d, now)
	r.mu.RUnlock()
	if known {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.has(d, now) {
		return false
	}
	if r.n >= maxRecent {
		r.dropLargest()
	}
	own := r.seen[d.caller.Namespace]
	if own == nil {
		own = map[decision]time.Time{}
		r.seen[d.caller.Namespace] = own
	}
	if _, found := own[d]; !found {
		r.n++
	}
	d.resource = strings.Clone(d.resource) // else the whole query stays in memory
	own[d] = now
	return true
}

func (r *recent) has(d decision, now time.Time) bool {
	last, found := r.seen[d.caller.Namespace][d]
	return found && now.Sub(last) < repeatAfter
}

// dropLargest drops the decisions of the namespace with the most.
func (r *recent) dropLargest() {
	var largest string
	for namespace, decisions := range r.seen {
		if len(decisions) > len(r.seen[largest]) {
			largest = namespace
		}
	}
	r.n -= len(r.seen[largest])
	delete(r.seen, largest)
}
