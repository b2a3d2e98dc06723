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
	for name := range t.takeChanges() {
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

// usable are the identities that a pod may have right now.
func (t *Table) usable(name types.NamespacedName) []*v1.AzureIdentity {
	t.mu.RLock()
	p := t.pods[name]
	var v *verdict
	if p != nil {
		v = t.verdictOfPod(p)
	}
	t.mu.RUnlock()
	if v == nil || v.excepted != "" {
		return nil
	}
	var usable []*v1.AzureIdentity
	for _, g := range v.grants {
		if t.judge(v, g).Kind == Allow {
			usable = append(usable, g.Identity)
		}
	}
	return usable
}
