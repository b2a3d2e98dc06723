// The cluster's policy and the namespace labels that it selects by.

package authorize

import (
	"maps"

	"github.com/podid-io/podid/internal/identity"
)

// SetPolicy replaces the cluster's policy. Nil means that there is none.
func (t *Table) SetPolicy(p *identity.Policy) {
	defer t.change()()
	t.policy = p
	t.invalidateIf(func(*pod) bool { return true })
}

// SetNamespace records the labels of a namespace.
func (t *Table) SetNamespace(name string, labels map[string]string) {
	defer t.change()()
	if known := t.namespaces[name]; known != nil && maps.Equal(known, labels) {
		return
	}
	if labels == nil {
		labels = map[string]string{} // known, and empty
	}
	t.namespaces[name] = labels
	t.invalidateIf(func(p *pod) bool { return p.Namespace == name })
}

// RemoveNamespace forgets a namespace.
func (t *Table) RemoveNamespace(name string) {
	defer t.change()()
	delete(t.namespaces, name)
	t.invalidateIf(func(p *pod) bool { return p.Namespace == name })
}
