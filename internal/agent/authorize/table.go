// What the cluster looks like, from this node.

package authorize

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// Table holds the objects that bear on who may use what, and a verdict for each
// pod of the node. It is fed by the Set and Remove methods, which take the
// objects as the API server tells of them and keep them: they must not be
// changed afterwards.
//
// A change forgets the verdicts it bears on, and only those, and closes their
// pods' changed channels; the next request works the verdict out anew. Verdicts
// are immutable. They are worked out under the read lock, so that a change
// cannot slip in between reading and keeping.
type Table struct {
	cfg Config

	mu         sync.RWMutex
	pods       map[types.NamespacedName]*pod
	bySelector index[*pod]
	bindings   map[types.NamespacedName]*v1.AzureIdentityBinding
	selecting  index[*v1.AzureIdentityBinding] // by selector
	naming     index[*v1.AzureIdentityBinding] // by namespace/name of the identity
	identities map[types.NamespacedName]*v1.AzureIdentity
	sharing    index[*v1.AzureIdentity]             // by namespace/name of the identity shared from
	exceptions index[*v1.AzurePodIdentityException] // by namespace
	assigned   map[types.NamespacedName]assignment
	assignedTo index[assignment]                      // by namespace/name of the pod
	strangers  map[types.NamespacedName]chan struct{} // pods asked for before they were known
	changes    changes
}

// maxStrangers bounds the pods waited for; callers are attested, so there is
// one at most for each live pod, for the moment until Set.
const maxStrangers = 4096

// maxForeign is how many bindings of other namespaces, which grant nothing when
// all is namespaced, are kept for a refusal's detail. Thousands of namespaces
// may use the same selector.
const maxForeign = 4

type pod struct {
	identity.Pod
	hostNetwork bool
	verdict atomic.Pointer[verdict]
	changed chan struct{}
}

// assignment is what matters of an AzureAssignedIdentity.
type assignment struct {
	pod, identity types.NamespacedName
	arrival
}

// NewTable returns a table that knows nothing.
func NewTable(cfg Config) *Table {
	return &Table{
		cfg: cfg, pods: map[types.NamespacedName]*pod{}, bySelector: index[*pod]{},
		bindings:  map[types.NamespacedName]*v1.AzureIdentityBinding{},
		selecting: index[*v1.AzureIdentityBinding]{}, naming: index[*v1.AzureIdentityBinding]{},
		identities: map[types.NamespacedName]*v1.AzureIdentity{}, sharing: index[*v1.AzureIdentity]{}, exceptions: index[*v1.AzurePodIdentityException]{},
		assigned: map[types.NamespacedName]assignment{}, assignedTo: index[assignment]{},
		strangers: map[types.NamespacedName]chan struct{}{}, changes: newChanges(),
	}
}

// verdictOf returns what is known of a pod, nil when nothing is, and the
// channel that closes when that changes.
func (t *Table) verdictOf(name types.NamespacedName) (*verdict, <-chan struct{}) {
	t.mu.RLock()
	p := t.pods[name]
	if p == nil {
		t.mu.RUnlock()
		return nil, t.stranger(name)
	}
	defer t.mu.RUnlock()
	return t.verdictOfPod(p), p.changed
}

// verdictOfPod is the verdict that is kept, or is worked out now. The read lock
// is held.
func (t *Table) verdictOfPod(p *pod) *verdict {
	v := p.verdict.Load()
	if v == nil {
		v = t.workOut(p)
		p.verdict.Store(v)
	}
	return v
}

func (t *Table) stranger(name types.NamespacedName) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pods[name]; p != nil {
		closed := make(chan struct{})
		close(closed) // it came just now: ask again
		return closed
	}
	if c := t.strangers[name]; c != nil {
		return c
	}
	c := make(chan struct{})
	if len(t.strangers) < maxStrangers {
		t.strangers[name] = c
	}
	return c
}

// workOut asks the rules. The read lock is held.
func (t *Table) workOut(p *pod) *verdict {
	v := &verdict{hostNetwork: p.hostNetwork, arrivals: map[types.NamespacedName]arrival{}}
	var exceptions []*v1.AzurePodIdentityException
	for _, e := range t.exceptions.with(p.Namespace) {
		exceptions = append(exceptions, e)
	}
	if e := identity.Excepted(p.Pod, exceptions); e != nil {
		v.excepted = e.Name
		return v
	}
	var bindings []*v1.AzureIdentityBinding
	foreign := 0
	for _, b := range t.selecting.with(p.Labels[v1.BindingLabel]) {
		if t.cfg.Rules.ForceNamespaced && b.Namespace != p.Namespace {
			if foreign++; foreign > maxForeign {
				continue
			}
		}
		bindings = append(bindings, b)
	}
	v.grants, v.refusals = t.cfg.Rules.Grants(p.Pod, bindings, func(namespace, name string) *v1.AzureIdentity {
		return t.identities[types.NamespacedName{Namespace: namespace, Name: name}]
	})
	for _, a := range t.assignedTo.with(nameOfPod(p).String()) {
		// Two objects for one pod and identity, by MICs of two generations:
		// the one that arrived counts.
		if have, ok := v.arrivals[a.identity]; !ok || !have.arrived() {
			v.arrivals[a.identity] = a.arrival
		}
	}
	return v
}

func nameOfPod(p *pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}

// touch forgets a pod's verdict. The lock is held.
func (t *Table) touch(p *pod) {
	if p == nil {
		return
	}
	p.verdict.Store(nil)
	close(p.changed)
	p.changed = make(chan struct{})
	t.changes.note(nameOfPod(p))
}

func (t *Table) touchSelector(selector string) {
	for _, p := range t.bySelector.with(selector) {
		t.touch(p)
	}
}

// SetPod records a pod of this node.
func (t *Table) SetPod(namespace, name string, labels map[string]string) {
	t.setPod(namespace, name, labels, false)
}

// SetHostNetworkPod records a pod that uses the node's own network. Only a process of the host can
// ask for its tokens.
func (t *Table) SetHostNetworkPod(namespace, name string, labels map[string]string) {
	t.setPod(namespace, name, labels, true)
}

func (t *Table) setPod(namespace, name string, labels map[string]string, hostNetwork bool) {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pods[key]
	switch {
	case p == nil:
		p = &pod{changed: make(chan struct{})}
		t.pods[key] = p
	case maps.Equal(p.Labels, labels) && p.hostNetwork == hostNetwork:
		return // only its status changed, which bears on nothing here
	default:
		t.bySelector.remove(p.Labels[v1.BindingLabel], key)
	}
	p.Pod = identity.Pod{Namespace: namespace, Name: name, Labels: labels}
	p.hostNetwork = hostNetwork
	t.bySelector.put(labels[v1.BindingLabel], key, p)
	t.touch(p)
	if c := t.strangers[key]; c != nil {
		close(c)
		delete(t.strangers, key)
	}
}

// RemovePod takes that a pod is gone from this node.
func (t *Table) RemovePod(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pods[key]; p != nil {
		t.bySelector.remove(p.Labels[v1.BindingLabel], key)
		delete(t.pods, key)
		delete(t.changes.pods, key)
		close(p.changed)
	}
}

// SetBinding takes a binding, of any namespace.
func (t *Table) SetBinding(b *v1.AzureIdentityBinding) {
	key := types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropBinding(key)
	t.bindings[key] = b
	t.selecting.put(b.Spec.Selector, key, b)
	t.naming.put(b.Namespace+"/"+b.Spec.AzureIdentity, key, b)
	t.touchSelector(b.Spec.Selector)
}

// RemoveBinding takes that a binding is gone.
func (t *Table) RemoveBinding(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropBinding(key)
}

func (t *Table) dropBinding(key types.NamespacedName) {
	if b := t.bindings[key]; b != nil {
		t.selecting.remove(b.Spec.Selector, key)
		t.naming.remove(b.Namespace+"/"+b.Spec.AzureIdentity, key)
		delete(t.bindings, key)
		t.touchSelector(b.Spec.Selector)
	}
}

// SetIdentity takes an identity, of any namespace.
func (t *Table) SetIdentity(id *v1.AzureIdentity) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := nameOf(id)
	t.dropIdentity(key)
	t.identities[key] = id
	if identity.Shared(id) {
		t.sharing.put(ownerOf(id), key, id)
	}
	t.touchIdentity(key)
}

// RemoveIdentity takes that an identity is gone.
func (t *Table) RemoveIdentity(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropIdentity(key)
	t.touchIdentity(key)
}

func (t *Table) dropIdentity(key types.NamespacedName) {
	if id := t.identities[key]; id != nil {
		delete(t.identities, key)
		t.sharing.remove(ownerOf(id), key)
	}
}

func ownerOf(id *v1.AzureIdentity) string {
	return id.Spec.SharedFrom.Namespace + "/" + id.Spec.SharedFrom.Name
}

// touchIdentity forgets the verdicts of pods that are to have the identity, or
// one that is shared from it: its owner may have taken the consent back.
func (t *Table) touchIdentity(key types.NamespacedName) {
	for _, b := range t.naming.with(key.String()) {
		t.touchSelector(b.Spec.Selector)
	}
	for borrower := range t.sharing.with(key.String()) {
		for _, b := range t.naming.with(borrower.String()) {
			t.touchSelector(b.Spec.Selector)
		}
	}
}

// SetException takes an exception, of any namespace.
func (t *Table) SetException(e *v1.AzurePodIdentityException) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exceptions.put(e.Namespace, types.NamespacedName{Namespace: e.Namespace, Name: e.Name}, e)
	t.touchNamespace(e.Namespace)
}

// RemoveException takes that an exception is gone.
func (t *Table) RemoveException(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exceptions.remove(key.Namespace, key)
	t.touchNamespace(key.Namespace)
}

func (t *Table) touchNamespace(namespace string) {
	for key, p := range t.pods {
		if key.Namespace == namespace {
			t.touch(p)
		}
	}
}

// SetAssigned takes an assigned identity; one of another node is ignored.
func (t *Table) SetAssigned(a *v1.AzureAssignedIdentity) {
	key := types.NamespacedName{Namespace: a.Namespace, Name: a.Name}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropAssigned(key)
	ref := a.Spec.AzureIdentityRef
	if ref == nil || !strings.EqualFold(a.Spec.NodeName, t.cfg.Node) {
		return
	}
	entry := assignment{
		pod:      types.NamespacedName{Namespace: a.Spec.PodNamespace, Name: a.Spec.Pod},
		identity: types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name},
		arrival: arrival{
			state: a.Status.Status, reason: a.Status.Reason, message: a.Status.Message,
			resourceID: ref.Spec.ResourceID, leaving: !a.DeletionTimestamp.IsZero(),
		},
	}
	t.assigned[key] = entry
	t.assignedTo.put(entry.pod.String(), key, entry)
	t.touch(t.pods[entry.pod])
}

// RemoveAssigned takes that an assigned identity is gone.
func (t *Table) RemoveAssigned(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropAssigned(key)
}

func (t *Table) dropAssigned(key types.NamespacedName) {
	if entry, ok := t.assigned[key]; ok {
		delete(t.assigned, key)
		t.assignedTo.remove(entry.pod.String(), key)
		t.touch(t.pods[entry.pod])
	}
}
