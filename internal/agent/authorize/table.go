// The state of the cluster as seen from this node.

package authorize

import (
	"maps"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/identity"
)

// Table holds the objects that decide who may use what, and a verdict for each pod of the node. The
// Set and Remove methods update it. It keeps the objects, so the caller must not change them after
// the call.
//
// Every change has a version. A change closes the changed channels of the pods it affects and
// records its version with them. A verdict is computed outside the lock, from a copy of the table
// at one version, and is valid until its pod changes: see verdict.go. The cost of a change is
// bounded by the pods of the node, however many objects there are.
type Table struct {
	cfg  Config
	slow slow

	mu         sync.RWMutex
	version    uint64 // of the latest change
	pods       map[types.NamespacedName]*pod
	bySelector index[*pod] // by scope
	bindings   map[types.NamespacedName]*v1.AzureIdentityBinding
	selecting  index[*v1.AzureIdentityBinding] // by scope
	selectedIn index[place]                    // by selector; with ForceNamespaced only
	uses       map[use]int                     // bindings that name an identity, by selector
	identities map[types.NamespacedName]knownIdentity
	borrowers  map[borrower]int                     // identities shared from another one
	exceptions index[*v1.AzurePodIdentityException] // by namespace
	assigned   map[types.NamespacedName]*assignment
	assignedTo index[*assignment] // by namespace/name of the pod
	pending    pendingPods
	policy     *identity.Policy
	namespaces map[string]map[string]string // labels, while the policy needs them
	changes    changes
}

// pod is a pod of the node.
type pod struct {
	identity.Pod
	hostNetwork bool
	// latest is the latest outcome, of any version.
	latest atomic.Pointer[outcome]

	// Guarded by the Table's mu.
	changedAt uint64 // version of the latest change that affects the pod
	changed   chan struct{}
}

// GetNamespace and GetName are for the index.
func (p *pod) GetNamespace() string { return p.Namespace }

// GetName returns the pod's name.
func (p *pod) GetName() string { return p.Name }

func (p *pod) key() types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}

func (p *pod) selector() string { return p.Labels[v1.BindingLabel] }

// knownIdentity is an identity, and the version that it came with.
type knownIdentity struct {
	*v1.AzureIdentity
	version uint64
}

// use is an identity that bindings with a selector name.
type use struct {
	identity types.NamespacedName
	selector string
}

// borrower is a namespace with identities that are shared from another one. Without ForceNamespaced
// such an identity may serve pods of any namespace, and the namespace is "".
type borrower struct {
	owner     types.NamespacedName
	namespace string
}

// place is a namespace with bindings of a selector.
type place string

// GetNamespace and GetName are for the index.
func (p place) GetNamespace() string { return string(p) }

// GetName returns nothing: one entry stands for the namespace.
func (p place) GetName() string { return "" }

// assignment is what matters of an AzureAssignedIdentity.
type assignment struct {
	name, pod, identity types.NamespacedName
	arrival
}

// GetNamespace and GetName are for the index.
func (a *assignment) GetNamespace() string { return a.name.Namespace }

// GetName returns the object's name.
func (a *assignment) GetName() string { return a.name.Name }

// NewTable returns an empty table.
func NewTable(cfg Config) *Table {
	return &Table{
		cfg: cfg, slow: newSlow(),
		pods: map[types.NamespacedName]*pod{}, bySelector: index[*pod]{},
		bindings:  map[types.NamespacedName]*v1.AzureIdentityBinding{},
		selecting: index[*v1.AzureIdentityBinding]{}, selectedIn: index[place]{}, uses: map[use]int{},
		identities: map[types.NamespacedName]knownIdentity{}, borrowers: map[borrower]int{},
		exceptions: index[*v1.AzurePodIdentityException]{},
		assigned:   map[types.NamespacedName]*assignment{}, assignedTo: index[*assignment]{},
		namespaces: map[string]map[string]string{},
		pending:    pendingPods{}, changes: newChanges(),
	}
}

// scope is the key of bindings and pods that may find each other. Without ForceNamespaced a binding
// may grant an identity to pods of all namespaces. No namespace has a slash in its name.
func (t *Table) scope(namespace, selector string) string {
	if !t.cfg.Rules.ForceNamespaced {
		namespace = ""
	}
	return namespace + "/" + selector
}

// invalidate records that a change affects a pod. The caller holds the lock.
func (t *Table) invalidate(p *pod) {
	if p == nil {
		return
	}
	p.changedAt = t.version
	close(p.changed)
	p.changed = make(chan struct{})
	t.changes.note(p.key())
}

func (t *Table) invalidateSelector(namespace, selector string) {
	for _, p := range t.bySelector[t.scope(namespace, selector)] {
		t.invalidate(p)
	}
}

// invalidateIf invalidates the pods of the node that qualify.
func (t *Table) invalidateIf(qualifies func(*pod) bool) {
	for _, p := range t.pods {
		if qualifies(p) {
			t.invalidate(p)
		}
	}
}

// change locks the table for a change and assigns the next version. The returned function unlocks
// it.
func (t *Table) change() (done func()) {
	t.mu.Lock()
	t.version++
	return t.mu.Unlock
}

// SetPod records a pod of this node. The table looks up the labels of its namespace itself.
func (t *Table) SetPod(p identity.Pod) { t.setPod(p, false) }

// SetHostNetworkPod records a pod that uses the node's own network. A process of the host can ask
// for its tokens, and the pod itself if its requests are captured.
func (t *Table) SetHostNetworkPod(p identity.Pod) { t.setPod(p, true) }

func (t *Table) setPod(now identity.Pod, hostNetwork bool) {
	key := types.NamespacedName{Namespace: now.Namespace, Name: now.Name}
	defer t.change()()
	p := t.pods[key]
	switch {
	case p == nil:
		p = &pod{changed: make(chan struct{})}
		t.pods[key] = p
	case maps.Equal(p.Labels, now.Labels) && p.ServiceAccount == now.ServiceAccount && p.hostNetwork == hostNetwork:
		return // only its status changed, which has no effect here
	default:
		t.bySelector.remove(t.scope(p.Namespace, p.selector()), p.Namespace, p.Name)
	}
	p.Pod, p.hostNetwork = now, hostNetwork
	t.bySelector.put(t.scope(p.Namespace, p.selector()), p)
	t.invalidate(p)
	t.pending.arrived(key)
}

// RemovePod forgets a pod that has left this node.
func (t *Table) RemovePod(key types.NamespacedName) {
	defer t.change()()
	if p := t.pods[key]; p != nil {
		t.bySelector.remove(t.scope(p.Namespace, p.selector()), p.Namespace, p.Name)
		delete(t.pods, key)
		delete(t.changes.pods, key)
		p.changedAt = t.version
		close(p.changed)
	}
}

// SetBinding adds or replaces a binding, of any namespace.
func (t *Table) SetBinding(b *v1.AzureIdentityBinding) {
	key := types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
	defer t.change()()
	t.dropBinding(key)
	t.bindings[key] = b
	if t.selecting.put(t.scope(b.Namespace, b.Spec.Selector), b) && t.cfg.Rules.ForceNamespaced {
		t.selectedIn.put(b.Spec.Selector, place(b.Namespace))
	}
	t.uses[useOf(b)]++
	t.invalidateSelector(b.Namespace, b.Spec.Selector)
}

// RemoveBinding forgets a binding that was deleted.
func (t *Table) RemoveBinding(key types.NamespacedName) {
	defer t.change()()
	t.dropBinding(key)
}

func (t *Table) dropBinding(key types.NamespacedName) {
	b := t.bindings[key]
	if b == nil {
		return
	}
	if t.selecting.remove(t.scope(b.Namespace, b.Spec.Selector), b.Namespace, b.Name) {
		t.selectedIn.remove(b.Spec.Selector, b.Namespace, "")
	}
	release(t.uses, useOf(b))
	delete(t.bindings, key)
	t.invalidateSelector(b.Namespace, b.Spec.Selector)
}

func useOf(b *v1.AzureIdentityBinding) use {
	return use{types.NamespacedName{Namespace: b.Namespace, Name: b.Spec.AzureIdentity}, b.Spec.Selector}
}

// release decrements a count and removes it at zero.
func release[K comparable](counts map[K]int, k K) {
	if counts[k]--; counts[k] <= 0 {
		delete(counts, k)
	}
}

// SetIdentity adds or replaces an identity, of any namespace.
func (t *Table) SetIdentity(id *v1.AzureIdentity) {
	defer t.change()()
	key := nameOf(id)
	t.dropIdentity(key)
	t.identities[key] = knownIdentity{id, t.version}
	if identity.Shared(id) {
		t.borrowers[t.borrowerOf(id)]++
	}
	t.invalidateIdentity(key)
}

// RemoveIdentity forgets an identity that was deleted.
func (t *Table) RemoveIdentity(key types.NamespacedName) {
	defer t.change()()
	t.dropIdentity(key)
	t.invalidateIdentity(key)
}

func (t *Table) dropIdentity(key types.NamespacedName) {
	if id := t.identities[key].AzureIdentity; id != nil {
		delete(t.identities, key)
		if identity.Shared(id) {
			release(t.borrowers, t.borrowerOf(id))
		}
	}
}

func (t *Table) borrowerOf(id *v1.AzureIdentity) borrower {
	from := id.Spec.SharedFrom
	b := borrower{owner: types.NamespacedName{Namespace: from.Namespace, Name: from.Name}}
	if t.cfg.Rules.ForceNamespaced {
		b.namespace = id.Namespace
	}
	return b
}

// invalidateIdentity invalidates the pods that are to have the identity. It also invalidates those
// that may have one shared from it, because its owner may have withdrawn the consent.
func (t *Table) invalidateIdentity(key types.NamespacedName) {
	t.invalidateIf(func(p *pod) bool {
		b := borrower{owner: key}
		if t.cfg.Rules.ForceNamespaced {
			b.namespace = p.Namespace
		}
		if t.borrowers[b] > 0 {
			return true
		}
		own := !t.cfg.Rules.ForceNamespaced || p.Namespace == key.Namespace
		return own && t.uses[use{key, p.selector()}] > 0
	})
}

// SetException adds or replaces an exception, of any namespace.
func (t *Table) SetException(e *v1.AzurePodIdentityException) {
	defer t.change()()
	t.exceptions.put(e.Namespace, e)
	t.invalidateIf(func(p *pod) bool { return p.Namespace == e.Namespace })
}

// RemoveException forgets an exception that was deleted.
func (t *Table) RemoveException(key types.NamespacedName) {
	defer t.change()()
	t.exceptions.remove(key.Namespace, key.Namespace, key.Name)
	t.invalidateIf(func(p *pod) bool { return p.Namespace == key.Namespace })
}

// SetAssigned adds or replaces an assigned identity. One of another node is ignored.
func (t *Table) SetAssigned(a *v1.AzureAssignedIdentity) {
	key := types.NamespacedName{Namespace: a.Namespace, Name: a.Name}
	defer t.change()()
	t.dropAssigned(key)
	ref := a.Spec.AzureIdentityRef
	if ref == nil || !ascii.EqualFold(a.Spec.NodeName, t.cfg.Node) {
		return
	}
	entry := &assignment{
		name:     key,
		pod:      types.NamespacedName{Namespace: a.Spec.PodNamespace, Name: a.Spec.Pod},
		identity: types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name},
		arrival: arrival{
			state: a.Status.Status, reason: a.Status.Reason, message: a.Status.Message,
			kind: ref.Spec.Type, resourceID: ref.Spec.ResourceID, leaving: !a.DeletionTimestamp.IsZero(),
		},
	}
	t.assigned[key] = entry
	t.assignedTo.put(entry.pod.String(), entry)
	t.invalidate(t.pods[entry.pod])
}

// RemoveAssigned forgets an assigned identity that was deleted.
func (t *Table) RemoveAssigned(key types.NamespacedName) {
	defer t.change()()
	t.dropAssigned(key)
}

func (t *Table) dropAssigned(key types.NamespacedName) {
	if entry := t.assigned[key]; entry != nil {
		delete(t.assigned, key)
		t.assignedTo.remove(entry.pod.String(), key.Namespace, key.Name)
		t.invalidate(t.pods[entry.pod])
	}
}
