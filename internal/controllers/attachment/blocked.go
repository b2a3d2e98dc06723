// Refusals because of what a node group has already.

package attachment

import (
	"fmt"
	"time"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

// blockedError is a refusal because of identities that the request did not name and that podid must
// not detach.
type blockedError struct {
	group compute.Group
	by    []string
	err   error
}

// Error is Azure's refusal, and what to do.
func (e *blockedError) Error() string { return fmt.Sprintf("%v (%s)", e.err, e.remedy()) }

// Unwrap returns Azure's refusal.
func (e *blockedError) Unwrap() error { return e.err }

// remedy returns what to do; it is the same each time.
func (e *blockedError) remedy() string {
	return fmt.Sprintf("Azure refuses every update of %s because of an identity that it has already. podid does not detach "+
		"identities that it did not attach or that are immutable; if that identity no longer exists, remove it by hand: %s",
		e.group, compute.Removal(e.group, e.by))
}

// blocked handles a refusal because of identities that the group has already: most often they were
// deleted while they were assigned. Those that podid attached or that pods need are detached with
// the next update. It returns a blockedError if others, or immutable ones, have to be removed by
// hand.
func (st *state) blocked(group compute.Group, bad []string, immutable map[string]bool, err error) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	var stays []string
	for _, id := range bad {
		key := ledger.Key(id)
		entry, ledgered := st.ledger.entries[key]
		_, needed := st.demand.needs[key]
		if (!ledgered || !entry.Owned()) && !needed || st.immutable(key, immutable) {
			stays = append(stays, id)
			continue
		}
		st.azure.stale[key], st.trouble.blockers[key] = true, true
		if !needed {
			st.demand.unneededSince[key] = time.Time{} // the grace is over
		}
	}
	if len(stays) == 0 {
		return err
	}
	return &blockedError{group, stays, err}
}
