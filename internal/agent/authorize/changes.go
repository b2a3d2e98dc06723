// Who became entitled to what, for those who prepare for it.

package authorize

import (
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
)

// changes are the pods whose verdicts changed since somebody asked, at most all
// of the node.
type changes struct {
	pods   map[types.NamespacedName]struct{}
	signal chan struct{} // has room for one
}

// restAfter is after how many pods Entitled rests. A namespace can have its pods change all the
// time.
const restAfter = 8

func newChanges() changes {
	return changes{pods: map[types.NamespacedName]struct{}{}, signal: make(chan struct{}, 1)}
}

func (c *changes) note(pod types.NamespacedName) {
	c.pods[pod] = struct{}{}
	select {
	case c.signal <- struct{}{}:
	default: // it was said already
	}
}

// Changed gets a value when what pods are entitled to may have changed.
func (t *Table) Changed() <-chan struct{} { return t.changes.signal }

// Entitled returns, each once, the identities that may be handed out now to the
// pods that changed since it was last called.
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
// verdict is slow: other pods are not to wait for it, and its own requests work it out.
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
