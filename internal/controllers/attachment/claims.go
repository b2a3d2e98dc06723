// What the ledger calls ours although Azure has not said so yet.

package attachment

import (
	"slices"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

// claim writes an entry for the update that is about to begin, and remembers what
// the ledger said before. mu is held.
func (st *state) claim(key string, entry ledger.Entry) {
	if before := st.ledger[key]; before != entry {
		st.claims[key], st.ledger[key] = before, entry
	}
}

// keepClaims keeps what the ledger says of these although Azure may not have
// carried the request out. mu is held.
func (st *state) keepClaims(req assignment.Request) {
	for _, id := range slices.Concat(req.Attach, req.Detach) {
		delete(st.claims, ledger.Key(id))
	}
}

// disclaim takes back what the update that has ended wrote into the ledger and
// Azure was not asked for, or plainly refused. Somebody else may put that identity
// there tomorrow, and then it must not count as ours.
func (st *state) disclaim() {
	st.mu.Lock()
	defer st.mu.Unlock()
	for key, before := range st.claims {
		switch _, there := st.ledger[key]; {
		case !there: // struck out already
		case before == ledger.Entry{}:
			delete(st.ledger, key)
		default:
			st.ledger[key] = before
		}
	}
	clear(st.claims)
}

// failedUpdate takes an update that failed, whatever it may have changed.
func (st *state) failedUpdate(req assignment.Request, cause error) {
	if !compute.Definite(cause) {
		st.mu.Lock()
		st.keepClaims(req)
		st.mu.Unlock()
	}
	st.doubt(req)
}

// unconfirmed tells of an entry of ours that Azure has never listed and does not
// list now: an update that attaches it is under way, or came to nothing. mu is held.
func (st *state) unconfirmed(key string) bool {
	entry, ok := st.ledger[key]
	return ok && entry.Owned() && entry.PrincipalID == "" && !st.current.Has(key)
}

// strike drops entries that came to nothing, given that Azure carries nothing out:
// whoever attaches those identities from now on, it is not an update of ours that
// failed. An update writes down again what it attaches. mu is held.
func (st *state) strike(updating bool) {
	st.updating = updating
	if updating {
		return
	}
	for key := range st.ledger {
		if st.unconfirmed(key) {
			delete(st.ledger, key)
		}
	}
}
