// Room in the ledger: it is bounded, and shared between the namespaces.

package attachment

import (
	"context"
	"fmt"
	"slices"

	"github.com/podid-io/podid/internal/assignment"
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
var errNoRoom = fmt.Errorf("the identities of one namespace may take up a fifth of its %d KiB, and less beside other namespaces", ledgerRoom>>10)

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
	room := assignment.Room{Total: ledgerRoom, Used: map[string]int{}}
	for _, entry := range st.ledger {
		room.Used[entry.Namespace] += entry.size()
	}
	var unrecorded []string
	for _, id := range ids {
		if _, ok := st.ledger[keyOf(id)]; !ok {
			unrecorded = append(unrecorded, id)
		}
	}
	_, refused = room.Admit(unrecorded, func(id string) int { return st.newEntry(id).largest().size() }, p.namespaces)
	return refused
}

// newEntry is the entry of an identity that is about to be attached. mu is held.
func (st *state) newEntry(id string) Entry {
	key := keyOf(id)
	entry := Entry{ResourceID: id}
	if of := namespaces(st.identities(key), st.early[key]); len(of) > 0 {
		entry.Namespace = slices.Min(of)
	}
	if n := st.needs[key]; n != nil {
		entry.ClientID = recordedClientID(n.clientID)
	}
	return entry
}

// largest is the entry with all that it may get later.
func (e Entry) largest() Entry {
	const guid = "00000000-0000-0000-0000-000000000000"
	e.ClientID, e.PrincipalID = guid, guid
	return e
}

// recordedClientID is a client ID as the ledger has it: without one that is no GUID, which could be
// of any length and stands for no identity.
func recordedClientID(clientID string) string {
	const guidLength = 36
	if len(clientID) > guidLength {
		return ""
	}
	return clientID
}

// refusedPage handles the API server's refusal of a page: the identities on it are refused by name,
// and the others go on. It returns false for other errors.
func (r *Reconciler) refusedPage(ctx context.Context, p *pass, plan assignment.GroupPlan, cause error) bool {
	if !isRefusedPage(cause) {
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
