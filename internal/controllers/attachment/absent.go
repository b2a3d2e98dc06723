// Finding the identities of an update that do not exist, without asking Azure for
// an update for each.

package attachment

import (
	"context"
	"slices"
	"sync"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

// lookups is how many identities are looked up at once. Azure allows hundreds of
// reads a minute, and of updates of a scale set only twelve in three: where it names
// one bad identity of many in each refusal, looking is the cheaper way to know them.
const lookups = 8

// narrow goes on after a refusal that is about the identities of the first of the
// requests: the culprits that Azure named are left out; where it named none, or
// another one after the first, those that do not exist are, too. What is left of the
// request goes out in one piece then, and is cut up only where looking found nothing.
func (r *Reconciler) narrow(ctx context.Context, p *pass, blamed *teams, todo []part, cause error) []part {
	refused, others := todo[0].Request, todo[1:]
	rest, culprits := assignment.Narrow(refused, compute.BadIdentities(cause))
	r.quarantine(ctx, p, culprits, cause)
	cut := blamed.apart(p, rest, culprits)
	if len(culprits) == 0 {
		rest = []assignment.Request{refused}
	}
	if !blamed.looked && (len(culprits) == 0 || blamed.refusals > 1) {
		blamed.looked = true
		if absent := r.absent(ctx, p, append(halves(rest), others...)); len(absent) > 0 {
			return left(append(halves(rest), others...), absent)
		}
	}
	return append(halves(cut), others...)
}

// absentError is Azure's word, when asked, that an identity does not exist.
type absentError struct {
	resourceID string
	err        error
}

// Error says what to do, the same each time.
func (e *absentError) Error() string {
	return "it does not exist: check that its resource ID is right (spec.resourceID of the AzureIdentity): az identity show --ids '" + e.resourceID + "'"
}

// Unwrap returns Azure's answer.
func (e *absentError) Unwrap() error { return e.err }

// left are the requests without those identities.
func left(todo []part, absent map[string]bool) (rest []part) {
	for _, next := range todo {
		next.Attach = slices.DeleteFunc(slices.Clone(next.Attach), func(id string) bool { return absent[ledger.Key(id)] })
		if next.Size() > 0 {
			rest = append(rest, next)
		}
	}
	return rest
}

// absent looks the identities up that these requests attach, at most as many as one
// request holds, and puts those into quarantine that Azure says do not exist.
// A look that fails for another reason, a missing right or a limit, tells nothing.
func (r *Reconciler) absent(ctx context.Context, p *pass, todo []part) map[string]bool {
	var ids []string
	for _, next := range todo {
		ids = append(ids, next.Attach...)
	}
	ids = ids[:min(len(ids), assignment.MaxPerRequest)]
	answers := r.lookUp(ctx, ids)
	found := map[string]bool{}
	for at, id := range ids {
		if compute.IdentityNotFound(answers[at]) {
			found[ledger.Key(id)] = true
			r.quarantine(ctx, p, []string{id}, &absentError{id, answers[at]})
		}
	}
	return found
}

// lookUp returns what Azure says about each, nil for that it exists. The time that
// all of them take is bounded; those that did not get an answer fail.
func (r *Reconciler) lookUp(ctx context.Context, ids []string) []error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	answers, places := make([]error, len(ids)), make(chan struct{}, lookups)
	var wg sync.WaitGroup
	for at, id := range ids {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if answers[at] = ctx.Err(); answers[at] == nil {
				_, answers[at] = r.cloud.ClientID(ctx, id)
			}
		})
	}
	wg.Wait()
	return answers
}
