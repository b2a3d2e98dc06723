// Pods whose entitlements changed, for the code that fetches tokens ahead of requests.

package authorize

import (
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
)

// changes are the pods whose verdicts changed since the last call of Entitled, at most all pods of
// the node.
type changes struct {
	pods   map[types.NamespacedName]struct{}
	signal chan struct{} // has room for one
}

// restAfter is the number of pods after which Entitled pauses. A namespace can make its pods change
// continuously.
const restAfter = 8

func newChanges() changes {
	return changes{pods: map[types.NamespacedName]struct{}{}, signal: make(chan struct{}, 1)}
}

func (c *changes) note(pod types.NamespacedName) {
	c.pods[pod] = struct{}{}
	select {
	case c.signal <- struct{}{}:
	default: // already signaled
	}
}

// Changed returns a channel that receives a value when what pods are entitled to may have changed.
func (t *Table) Changed() <-chan struct{} { return t.changes.signal }

// Entitled returns the identities that may be handed out now to the pods that changed since the
// last call, each identity once.
func (t *Table) Entitled() []*v1.AzureIdentity {
	var entitled []*v1.AzureIdentity
	seen := map[types.NamespacedName]bool{}
	n := 0
	for name := range t.takeChanges() {
		if n++; n%restAfter == 0 {
			rest()
		}
		for _, id := range t.usable(name) {
			if !seen[nameOf(id)] {
				seen[nameOf(id)] = true
				entitled = append(entitled, id)
			}
		}
	}
	return entitled
}

func (t *Table) takeChanges() map[types.NamespacedName]struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.changes.pods
	t.changes.pods = map[types.NamespacedName]struct{}{}
	return taken
}

// usable returns the identities that a pod may have right now. It returns none for a pod whose
// verdict is slow to compute, so that other pods do not wait for it. That pod's own requests
// compute the verdict.
func (t *Table) usable(name types.NamespacedName) []*v1.AzureIdentity {
	t.mu.RLock()
	p := t.pods[name]
	tooLarge := p != nil && t.size(p) > batch
	t.mu.RUnlock()
	if p == nil || tooLarge {
		return nil
	}
	o, _ := t.outcomeOf(name)
	if o == nil || o.excepted != "" {
		return nil
	}
	var usable []*v1.AzureIdentity
	for _, g := range o.grants {
		if t.judge(o.verdict, g).Kind == Allow {
			usable = append(usable, g.Identity)
		}
	}
	return usable
}
