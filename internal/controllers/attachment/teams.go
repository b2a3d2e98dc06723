// Keeping one team's many bad identities from holding up the others.

package attachment

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/ledger"
)

// teams are the namespaces of the identities that Azure has refused of one update.
// Where it names one bad identity at a time, a hundred of them would take as many
// updates before anything goes through, of which a scale set takes four a minute.
type teams struct {
	refusals   int
	namespaces map[string]bool
	// looked tells that the identities that do not exist have been looked for.
	looked bool
}

// apart takes the culprits of a refusal, and from the second one on puts what other
// teams ask for into requests of their own, in front.
func (t *teams) apart(p *pass, rest []assignment.Request, culprits []string) []assignment.Request {
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

// namespaces are those of the AzureIdentity objects that ask for an identity. The
// state's mu is held.
func (p *pass) namespaces(id string) []string {
	return namespaces(p.state.identities(ledger.Key(id)), p.extra.names[ledger.Key(id)])
}

// namespaces returns each namespace once.
func namespaces(identities ...[]types.NamespacedName) (all []string) {
	for _, name := range slices.Concat(identities...) {
		if !slices.Contains(all, name.Namespace) {
			all = append(all, name.Namespace)
		}
	}
	return all
}
