// Identities for which the ledger has no room.

package attachment

import (
	"context"
	"fmt"
	"slices"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/reason"
)

// admit removes from a plan what the ledger has no room for, and refuses those identities by name.
func (c *Controller) admit(
	ctx context.Context, p *pass, plan assignment.GroupPlan,
) (_ assignment.GroupPlan, refused bool) {
	overflow := p.overflow(p.state.unrecorded(plan.Attach, plan.Probation))
	if len(overflow) == 0 {
		return plan, false
	}
	refuses := func(id string) bool { return slices.Contains(overflow, id) }
	plan.Attach = slices.DeleteFunc(plan.Attach, refuses)
	plan.Probation = slices.DeleteFunc(plan.Probation, refuses)
	for _, id := range overflow {
		c.refuseEntry(ctx, p, id, errNoRoom)
	}
	c.notify(p.state)
	return plan, true
}

// overflow returns those of the new identities for which the ledger has no room.
func (p *pass) overflow(ids []string) (refused []string) {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	return ledger.Overflow(p.state.ledger.entries, ids, p.state.demand.entry, p.namespaces)
}

// errNoRoom is the refusal of an identity for which the ledger has no room.
var errNoRoom = fmt.Errorf("the identities of one namespace may take up a fifth of its %d KiB, and less beside other namespaces",
	ledger.Capacity>>10)

// refuseEntry refuses an identity that cannot be recorded in the ledger, and so must not be
// attached.
func (c *Controller) refuseEntry(ctx context.Context, p *pass, id string, cause error) {
	c.isolate(ctx, p, id, assignment.Refused(reason.LedgerFull, fmt.Sprintf(
		"podid's record of what it attached to %s has no room for this identity (%v): remove AzureIdentityBindings of this namespace "+
			"that are not needed, or run their pods on other node groups", p.group, cause)), cause)
}

// refusePage handles the API server's refusal of a page: it refuses the identities on that page by
// name, and the others go on. It returns false for other errors.
func (c *Controller) refusePage(ctx context.Context, p *pass, plan assignment.GroupPlan, cause error) bool {
	if !ledger.IsPageRefused(cause) {
		return false
	}
	refused := p.state.unrecorded(plan.Attach, plan.Probation)
	for _, id := range refused {
		c.refuseEntry(ctx, p, id, cause)
	}
	c.notify(p.state)
	return len(refused) > 0
}
