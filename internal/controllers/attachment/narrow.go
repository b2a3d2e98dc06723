// Finding the bad identities of a refused request.

package attachment

import (
	"context"
	"slices"
	"sync"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

// parallelLookups is how many identities are looked up at once. Azure allows hundreds of reads a
// minute, but only four updates of a scale set. If each refusal names one bad identity of many,
// looking all of them up is cheaper.
const parallelLookups = 8

// narrow continues after a refusal that is about the identities of the first request. It leaves out
// the identities that Azure named. If Azure named none, or the refusal is not the first, it also
// leaves out those that do not exist. The request is bisected only if nothing was found.
func (c *Controller) narrow(ctx context.Context, p *pass, blamed *tenants, todo []request, cause error) []request {
	refused, others := todo[0].Request, todo[1:]
	rest, culprits := assignment.Narrow(refused, compute.BadIdentities(cause))
	c.quarantine(ctx, p, culprits, cause)
	separated := blamed.separate(p, rest, culprits)
	if len(culprits) == 0 {
		rest = []assignment.Request{refused}
	}
	if !blamed.lookedUp && (len(culprits) == 0 || blamed.refusals > 1) {
		blamed.lookedUp = true
		if absent := c.quarantineAbsent(ctx, p, append(remainders(rest), others...)); len(absent) > 0 {
			return without(append(remainders(rest), others...), absent)
		}
	}
	return append(remainders(separated), others...)
}

// absentError is Azure's answer that an identity does not exist.
type absentError struct {
	resourceID string
	err        error
}

// Error returns what to do; it is the same each time.
func (e *absentError) Error() string {
	return "it does not exist: check that its resource ID is right (spec.resourceID of the AzureIdentity): " +
		"az identity show --ids '" + e.resourceID + "'"
}

// Unwrap returns Azure's answer.
func (e *absentError) Unwrap() error { return e.err }

// without returns the requests without those identities.
func without(todo []request, absent map[string]bool) (rest []request) {
	for _, next := range todo {
		next.Attach = slices.DeleteFunc(slices.Clone(next.Attach), func(id string) bool {
			return absent[ledger.Key(id)]
		})
		if next.Size() > 0 {
			rest = append(rest, next)
		}
	}
	return rest
}

// quarantineAbsent quarantines the identities that these requests attach and that do not exist, and
// returns them. It looks up at most as many as one request holds. A lookup that fails for another
// reason, such as a missing right or a limit, has no effect.
func (c *Controller) quarantineAbsent(ctx context.Context, p *pass, todo []request) map[string]bool {
	var ids []string
	for _, next := range todo {
		ids = append(ids, next.Attach...)
	}
	ids = ids[:min(len(ids), assignment.MaxPerRequest)]
	absent := map[string]bool{}
	for i, err := range c.lookUp(ctx, ids) {
		if compute.IdentityNotFound(err) {
			absent[ledger.Key(ids[i])] = true
			c.quarantine(ctx, p, []string{ids[i]}, &absentError{ids[i], err})
		}
	}
	return absent
}

// lookUp returns Azure's error for each identity, nil if it exists. The time of all lookups
// together is bounded; those without an answer by then fail.
func (c *Controller) lookUp(ctx context.Context, ids []string) []error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	errs, slots := make([]error, len(ids)), make(chan struct{}, parallelLookups)
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if errs[i] = ctx.Err(); errs[i] == nil {
				_, errs[i] = c.cloud.ClientID(ctx, id)
			}
		})
	}
	wg.Wait()
	return errs
}

// tenants are the namespaces of the identities that Azure refused during one update. If it names
// one bad identity per refusal, a hundred of them would take as many updates before any identity is
// attached, of which a scale set accepts four a minute.
type tenants struct {
	refusals   int
	namespaces map[string]bool
	// lookedUp is set once the identities that do not exist have been looked up.
	lookedUp bool
}

// separate records the culprits of a refusal. From the second refusal on, it moves what other
// tenants ask for into requests of their own, in front.
func (t *tenants) separate(p *pass, rest []assignment.Request, culprits []string) []assignment.Request {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	if t.namespaces == nil {
		t.namespaces = map[string]bool{}
	}
	for _, id := range culprits {
		for _, namespace := range p.namespaces(id) {
			t.namespaces[namespace] = true
		}
	}
	if t.refusals++; t.refusals < 2 || len(t.namespaces) == 0 {
		return rest
	}
	blamed := func(id string) bool {
		return slices.ContainsFunc(p.namespaces(id), func(namespace string) bool { return t.namespaces[namespace] })
	}
	var others, theirs []assignment.Request
	for _, req := range rest {
		with := slices.DeleteFunc(slices.Clone(req.Attach), func(id string) bool { return !blamed(id) })
		without := slices.DeleteFunc(slices.Clone(req.Attach), blamed)
		if len(without)+len(req.Detach) > 0 {
			others = append(others, assignment.Request{Attach: without, Detach: req.Detach})
		}
		if len(with) > 0 {
			theirs = append(theirs, assignment.Request{Attach: with})
		}
	}
	return append(others, theirs...)
}

// namespaces returns those of the AzureIdentity objects that ask for an identity. The state's mu is
// held.
func (p *pass) namespaces(id string) []string {
	return namespaces(p.state.demand.identities(ledger.Key(id)), p.extra.names[ledger.Key(id)])
}
