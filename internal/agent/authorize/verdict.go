// How a verdict is worked out.

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
	// batch is how many objects a verdict is worked out from in one go, some 20 µs. Hardly any pod
	// has more bindings. Verdicts from more are slow: one at a time, with a pause of restTime after
	// each batch. So they take a small part of a CPU, and other pods' requests are served between.
	batch    = 64
	restTime = 200 * time.Microsecond
	// maxRefusals bounds the refusals that a verdict keeps from several batches.
	maxRefusals = 256
	// maxForeign is how many namespaces are named in a refusal's detail whose bindings have the
	// pod's selector and grant nothing, because all is namespaced.
	maxForeign = 4
)

// outcome is a verdict, the version that it is of, and the channel that closes when the pod changes
// after that version.
type outcome struct {
	*verdict
	version uint64
	changed <-chan struct{}
}

// inputs are what bears on a pod, as it was at one version. The slices are copies.
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

// slow has the turns of slow verdicts. A namespace has one turn at a time, so that it does not
// matter how many of its pods ask.
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

// outcomeOf returns the outcome for a pod, of a version no older than the call. It returns nil, and
// the channel that closes when that changes, for a pod that is not known.
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
	// One that was worked out meanwhile, since this request came, answers it too, even if the pod
	// has changed again: so any number of requests cost no more than a few.
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

// evaluate works out the outcome for a pod and keeps it, unless there is a later one.
func (t *Table) evaluate(p *pod, in *inputs) (*outcome, <-chan struct{}) {
	o := &outcome{verdict: t.workOut(in), version: in.version, changed: in.changed}
	for {
		before := p.latest.Load()
		if before != nil && before.version > o.version || p.latest.CompareAndSwap(before, o) {
			return o, o.changed
		}
	}
}

// current returns the latest outcome for a pod if the pod has not changed since, else nil. The lock
// is held.
func (t *Table) current(p *pod) *outcome {
	if o := p.latest.Load(); o != nil && o.version >= p.changedAt {
		return o
	}
	return nil
}

// size is how many objects the pod's verdict is to be worked out from. The lock is held.
func (t *Table) size(p *pod) int {
	return max(len(t.exceptions[p.Namespace]), len(t.candidates(p)), len(t.assignedTo[p.key().String()]))
}

// candidates are the bindings that may grant identities to a pod. The lock is held.
func (t *Table) candidates(p *pod) []*v1.AzureIdentityBinding {
	if p.selector() == "" {
		return nil // an empty selector selects nothing
	}
	return t.selecting[t.scope(p.Namespace, p.selector())]
}

// read copies what bears on a pod. The lock is held.
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

// identityAt returns an identity as it was at a version, and nil when it was not there or has
// changed since. So a grant never combines objects that were not there at the same time. An outcome
// without the identity is not valid for longer: the change has invalidated the pod.
func (t *Table) identityAt(version uint64, namespace, name string) *v1.AzureIdentity {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if id := t.identities[types.NamespacedName{Namespace: namespace, Name: name}]; id.version <= version {
		return id.AzureIdentity
	}
	return nil
}

// workOut asks the rules. The lock is not held.
func (t *Table) workOut(in *inputs) *verdict {
	v := &verdict{pod: in.pod, hostNetwork: in.hostNetwork, arrivals: map[types.NamespacedName]arrival{}}
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
	granted := map[types.NamespacedName]bool{}
	for _, g := range v.grants {
		granted[nameOf(g.Identity)] = true
	}
	for some := range batches(in.assigned) {
		for _, a := range some {
			// Two objects for one pod and identity, by MICs of two generations:
			// the one that arrived counts.
			if have, ok := v.arrivals[a.identity]; granted[a.identity] && (!ok || !have.arrived()) {
				v.arrivals[a.identity] = a.arrival
			}
		}
	}
	return v
}

// consider adds some bindings to a verdict. What is granted so far is considered once more with
// them, so that precedence and the most a pod may have count for all.
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

// rest lets other goroutines run. It waits, because a goroutine that only yields runs on while
// others wait for the network.
func rest() { <-time.After(restTime) }

// foreign returns the refusals of bindings in other namespaces with the pod's selector: one each,
// of a few. They are no part of the verdict, so that other namespaces cannot change it.
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
