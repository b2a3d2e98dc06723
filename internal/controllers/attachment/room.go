// Room in the ledger: it is bounded, and shared between the namespaces.

package attachment

import (
	"context"
	"fmt"
	"slices"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/ledger"
)

// admit takes out of a plan what the ledger has no room for, and refuses those identities by name.
func (r *Reconciler) admit(ctx context.Context, p *pass, plan assignment.GroupPlan) (_ assignment.GroupPlan, refused bool) {
	for _, id := range p.state.overflow(p, slices.Concat(plan.Attach, plan.Probation)) {
		refused = true
		plan.Attach = slices.DeleteFunc(plan.Attach, func(other string) bool { return other == id })
		plan.Probation = slices.DeleteFunc(plan.Probation, func(other string) bool { return other == id })
		r.unrecordable(ctx, p, id, errNoRoom)
	}
	if refused {
		r.tell(p.state)
	}
	return plan, refused
}

// errNoRoom is the refusal of an identity for which the ledger has no room.
var errNoRoom = fmt.Errorf("the identities of one namespace may take up a fifth of its %d KiB, and less beside other namespaces", ledger.Capacity>>10)

// unrecordable refuses an identity that cannot be written into the ledger: what podid has not
// recorded it must not attach.
func (r *Reconciler) unrecordable(ctx context.Context, p *pass, id string, cause error) {
	r.isolate(ctx, p, id, assignment.State{
		Reason: assignment.ReasonLedgerFull,
		Message: fmt.Sprintf("podid's record of what it attached to %s has no room for this identity (%v): remove AzureIdentityBindings of this "+
			"namespace that are not needed, or run their pods on other node groups", p.group, cause),
	}, cause)
}

// overflow returns those of the identities that have no entry in the ledger and no room for one.
func (st *state) overflow(p *pass, ids []string) (refused []string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	unrecorded := slices.DeleteFunc(ids, func(id string) bool {
		_, ok := st.ledger[ledger.Key(id)]
		return ok
	})
	return ledger.Overflow(st.ledger, unrecorded, st.newEntry, p.namespaces)
}

// newEntry is the entry of an identity that is about to be attached. mu is held.
func (st *state) newEntry(id string) ledger.Entry {
	key := ledger.Key(id)
	entry := ledger.Entry{ResourceID: id}
	if of := namespaces(st.identities(key), st.early[key]); len(of) > 0 {
		entry.Namespace = slices.Min(of)
	}
	if n := st.needs[key]; n != nil {
		entry.ClientID = ledger.ClientIDFor(n.clientID)
	}
	return entry
}

// refusedPage handles the API server's refusal of a page: the identities on it are refused by name,
// and the others go on. It returns false for other errors.
func (r *Reconciler) refusedPage(ctx context.Context, p *pass, plan assignment.GroupPlan, cause error) bool {
	if !ledger.IsPageRefused(cause) {
		return false
	}
	found := false
	for _, id := range slices.Concat(plan.Attach, plan.Probation) {
		if p.state.unrecorded([]string{id}) {
			found = true
			r.unrecordable(ctx, p, id, cause)
		}
	}
	r.tell(p.state)
	return found
}
