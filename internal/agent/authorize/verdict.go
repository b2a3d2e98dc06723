// The computation of verdicts.

package authorize

import (
	"hash/maphash"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

const (
	// batch is how many objects are processed in one step, which takes about 20 µs. Few pods have more
	// bindings. Verdicts from more are slow: they run one at a time, with a pause of restTime after
	// each batch. So they use a small part of a CPU, and other pods' requests are served in between.
	batch    = 64
	restTime = 200 * time.Microsecond
	// maxRefusals limits the refusals that a verdict keeps from several batches.
	maxRefusals = 256
	// maxForeign is how many other namespaces a refusal's detail names. These have bindings with the
	// pod's selector that grant nothing, because identities are namespaced.
	maxForeign = 4
)

// outcome is a verdict with its version, and the channel that closes when the pod changes after
// that version.
type outcome struct {
	*verdict
	version uint64
	changed <-chan struct{}
}

// inputs are the objects that affect a pod, as of one version. The slices are copies.
type inputs struct {
	pod         identity.Pod
	rules       identity.Rules
	hostNetwork bool
	version     uint64
	changed     <-chan struct{}
	exceptions  []*v1.AzurePodIdentityException
	bindings    []*v1.AzureIdentityBinding
	assigned    []*assignment
}

// slow serializes slow verdicts. A namespace has one turn at a time, no matter how many of its pods
// send requests.
type slow struct {
	seed      maphash.Seed
	namespace [64]chan struct{} // by hash; the seed is random
	turn      chan struct{}
}

func newSlow() slow {
	s := slow{seed: maphash.MakeSeed(), turn: make(chan struct{}, 1)}
	for i := range s.namespace {
		s.namespace[i] = make(chan struct{}, 1)
	}
	return s
}

// take waits for the turn of a namespace.
func (s *slow) take(namespace string) (release func()) {
	own := s.namespace[maphash.String(s.seed, namespace)%uint64(len(s.namespace))]
	own <- struct{}{}
	s.turn <- struct{}{}
	return func() {
		<-s.turn
		<-own
	}
}

// outcomeOf returns the outcome for a pod, of a version no older than the call. For an unknown pod
// it returns nil and the channel that closes when the pod becomes known.
func (t *Table) outcomeOf(name types.NamespacedName) (*outcome, <-chan struct{}) {
	t.mu.RLock()
	p := t.pods[name]
	if p == nil {
		t.mu.RUnlock()
		return nil, t.await(name)
	}
	o, size, asked := t.current(p), t.size(p), t.version
	if o != nil {
		t.mu.RUnlock()
		return o, o.changed
	}
	if size <= batch {
		in := t.read(p)
		t.mu.RUnlock()
		return t.evaluate(p, in)
	}
	t.mu.RUnlock()
	defer t.slow.take(name.Namespace)()
	// An outcome computed since this request arrived is recent enough, even if the pod has changed
	// again. So any number of requests cost only a few computations.
	if o := p.latest.Load(); o != nil && o.version >= asked {
		return o, o.changed
	}
	t.mu.RLock()
	if t.pods[name] != p {
		t.mu.RUnlock()
		return nil, t.await(name)
	}
	in := t.read(p)
	t.mu.RUnlock()
	return t.evaluate(p, in)
}

// evaluate computes the outcome for a pod and stores it, unless there is a later one.
func (t *Table) evaluate(p *pod, in *inputs) (*outcome, <-chan struct{}) {
	o := &outcome{verdict: t.workOut(in), version: in.version, changed: in.changed}
	for {
		before := p.latest.Load()
		if before != nil && before.version > o.version || p.latest.CompareAndSwap(before, o) {
			return o, o.changed
		}
	}
}

// current returns the latest outcome for a pod if the pod has not changed since, else nil. The
// caller holds the lock.
func (t *Table) current(p *pod) *outcome {
	if o := p.latest.Load(); o != nil && o.version >= p.changedAt {
		return o
	}
	return nil
}

// size returns the number of objects that the pod's verdict depends on. The caller holds the lock.
func (t *Table) size(p *pod) int {
	return max(len(t.exceptions[p.Namespace]), len(t.candidates(p)), len(t.assignedTo[p.key().String()]))
}

// candidates returns the bindings that may grant identities to a pod. The caller holds the lock.
func (t *Table) candidates(p *pod) []*v1.AzureIdentityBinding {
	if p.selector() == "" {
		return nil // an empty selector selects nothing
	}
	return t.selecting[t.scope(p.Namespace, p.selector())]
}

// read copies the objects that affect a pod. The caller holds the lock.
func (t *Table) read(p *pod) *inputs {
	in := &inputs{
		pod: p.Pod, rules: t.cfg.Rules.With(t.policy), hostNetwork: p.hostNetwork, version: t.version, changed: p.changed,
		exceptions: slices.Clone(t.exceptions[p.Namespace]),
		bindings:   slices.Clone(t.candidates(p)),
		assigned:   slices.Clone(t.assignedTo[p.key().String()]),
	}
	in.pod.NamespaceLabels = t.namespaces[p.Namespace]
	return in
}

// identityAt returns an identity as of a version, or nil if it did not exist or has changed since.
// So a grant never combines objects that did not exist at the same time. An outcome without the
// identity does not stay valid: the change has invalidated the pod.
func (t *Table) identityAt(version uint64, namespace, name string) *v1.AzureIdentity {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if id := t.identities[types.NamespacedName{Namespace: namespace, Name: name}]; id.version <= version {
		return id.AzureIdentity
	}
	return nil
}

// workOut applies the rules. The caller does not hold the lock.
func (t *Table) workOut(in *inputs) *verdict {
	v := &verdict{pod: in.pod, hostNetwork: in.hostNetwork}
	for some := range batches(in.exceptions) {
		e, refusal := in.rules.PlainIMDS(in.pod, some)
		if e != nil {
			v.excepted, v.warning = e.Name, refusal
			return v
		}
		if refusal != nil && v.exception == nil {
			v.exception = refusal
		}
	}
	for some := range batches(in.bindings) {
		t.consider(v, in, some)
	}
	if len(v.grants) == 0 && len(v.refusals) == 0 {
		_, v.refusals = in.rules.Grants(in.pod, nil, nil)
	}
	v.arrivals = arrivalsOf(v.grants, in.assigned)
	return v
}

// arrivalsOf returns how far the granted identities have come on their way to the node.
func arrivalsOf(grants []identity.Grant, list []*assignment) map[types.NamespacedName]arrival {
	granted := map[types.NamespacedName]bool{}
	for _, g := range grants {
		granted[nameOf(g.Identity)] = true
	}
	arrivals := map[types.NamespacedName]arrival{}
	for some := range batches(list) {
		for _, a := range some {
			// Two objects for one pod and identity come from MICs of two generations. The one that arrived
			// counts.
			if have, ok := arrivals[a.identity]; granted[a.identity] && (!ok || !have.arrived()) {
				arrivals[a.identity] = a.arrival
			}
		}
	}
	return arrivals
}

// consider adds some bindings to a verdict. Earlier grants are considered again with them, so that
// precedence and MaxIdentities apply to all.
func (t *Table) consider(v *verdict, in *inputs, some []*v1.AzureIdentityBinding) {
	bindings := make([]*v1.AzureIdentityBinding, 0, len(v.grants)+len(some))
	for _, g := range v.grants {
		bindings = append(bindings, g.Binding)
	}
	var refusals []*reason.Refusal
	v.grants, refusals = in.rules.Grants(in.pod, append(bindings, some...), func(namespace, name string) *v1.AzureIdentity {
		return t.identityAt(in.version, namespace, name)
	})
	for _, r := range refusals {
		switch {
		case r.Reason == reason.NoBinding:
		case r.Reason == reason.TooManyIdentities:
			v.tooMany = r // the latest stands for all
		case len(v.refusals) < maxRefusals:
			v.refusals = append(v.refusals, r)
		}
	}
}

// batches yields a list in batches, with pauses between them.
func batches[T any](list []T) func(yield func([]T) bool) {
	return func(yield func([]T) bool) {
		for some := range slices.Chunk(list, batch) {
			if !yield(some) {
				return
			}
			if len(list) > batch {
				rest()
			}
		}
	}
}

// rest lets other goroutines run. It sleeps, because a goroutine that only yields is scheduled
// again before those that wait for the network.
func rest() { <-time.After(restTime) }

// foreign returns refusals for a few bindings in other namespaces with the pod's selector, one
// each. They are not part of the verdict, so that other namespaces cannot change it.
func (t *Table) foreign(p identity.Pod) []*reason.Refusal {
	selector := p.Labels[v1.BindingLabel]
	if !t.cfg.Rules.ForceNamespaced || selector == "" {
		return nil
	}
	var bindings []*v1.AzureIdentityBinding
	t.mu.RLock()
	for _, where := range t.selectedIn[selector] {
		if string(where) != p.Namespace {
			bindings = append(bindings, t.selecting[t.scope(string(where), selector)][0])
		}
		if len(bindings) == maxForeign {
			break
		}
	}
	t.mu.RUnlock()
	if len(bindings) == 0 {
		return nil
	}
	_, refusals := t.cfg.Rules.Grants(p, bindings, nil)
	return slices.DeleteFunc(refusals, func(r *reason.Refusal) bool { return r.Reason != reason.OtherNamespace })
}
