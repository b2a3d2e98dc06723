// Refusals because of what a node group has already.

package attachment

import (
	"fmt"
	"time"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

// blockedError is a refusal because of identities that the request did not name,
// and that podid must not take away.
type blockedError struct {
	group compute.Group
	by    []string
	err   error
}

// Error is Azure's refusal, and what to do.
func (e *blockedError) Error() string { return fmt.Sprintf("%v (%s)", e.err, e.remedy()) }

// Unwrap returns Azure's refusal.
func (e *blockedError) Unwrap() error { return e.err }

// remedy says what to do, the same each time.
func (e *blockedError) remedy() string {
	return fmt.Sprintf("Azure refuses every update of %s because of what it has already, and podid leaves there what it did not put there "+
		"or what is immutable; if that identity does not exist any more, remove it by hand: %s", e.group, compute.Removal(e.group, e.by))
}

// blocked takes a refusal because of identities that the group has already: most
// often they were deleted while they were assigned. What is ours or needed leaves
// with the next update; what is somebody else's, or immutable, has to be removed
// by hand.
func (st *state) blocked(group compute.Group, bad []string, immutable map[string]bool, err error) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	var stays []string
	for _, id := range bad {
		key := ledger.Key(id)
		entry, ours := st.ledger[key]
		_, needed := st.needs[key]
		if (!ours || !entry.Owned()) && !needed || st.immutable(key, immutable) {
			stays = append(stays, id)
			continue
		}
		st.stale[key], st.blockers[key] = true, true
		if !needed {
			st.unneeded[key] = time.Time{} // it may leave at once
		}
	}
	if len(stays) == 0 {
		return err
	}
	return &blockedError{group, stays, err}
}

// immutable tells whether an identity is on the list of those never to take
// away, by its resource ID or by its client ID. mu is held.
func (st *state) immutable(key string, list map[string]bool) bool {
	return list[ascii.Loose(key)] || list[st.ledger[key].ClientKey()] || list[st.clients[key]]
}
