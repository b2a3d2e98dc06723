package authorize

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

var victim = types.NamespacedName{Namespace: "shop", Name: "web"}

func hostile(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "hostile", Name: name}
}

func grant(t *Table, namespace, name, selector string) *v1.AzureIdentityBinding {
	id, b := anIdentity(name), aBinding(name, name, selector, 0)
	id.Namespace, b.Namespace = namespace, namespace
	t.SetIdentity(id)
	t.SetBinding(b)
	return b
}

// besideHostile returns a table with a pod of shop that may use the identity web, and with pods of
// a namespace that has n bindings of one selector.
func besideHostile(n, pods int, forceNamespaced bool) *Table {
	t := newTable(func(c *Config) { c.Standard, c.Rules.ForceNamespaced = false, forceNamespaced })
	for i := range n {
		grant(t, "hostile", fmt.Sprintf("id-%06d", i), "x")
	}
	for i := range pods {
		t.SetPod(identity.Pod{Namespace: "hostile", Name: fmt.Sprint("p", i), Labels: map[string]string{v1.BindingLabel: "x"}})
	}
	grant(t, "shop", "web", "web")
	t.SetPod(identity.Pod{Namespace: "shop", Name: "web", Labels: map[string]string{v1.BindingLabel: "web"}})
	return t
}

// TestSlowVerdict: the table's lock is free while a verdict is worked out from many bindings. A
// change in that time does not slip in: the verdict is of one moment, and not kept.
func TestSlowVerdict(t *testing.T) {
	const n = 10 * batch
	first := hostile("id-000000")
	gone := func(t *Table) { t.RemoveIdentity(hostile("id-000639")) }
	tests := map[string]struct {
		change func(*Table)
		during string // the decision for the pod meanwhile
		then   string // the decision after the change
	}{
		"nothing":      {func(*Table) {}, "allow id-000000", "allow id-000000"},
		"binding gone": {func(t *Table) { t.RemoveBinding(first) }, "allow id-000000", "allow id-000001"},
		"binding moved": {func(t *Table) {
			b := t.bindings[first].DeepCopy()
			b.Spec.Selector = "y"
			t.SetBinding(b)
		}, "allow id-000000", "allow id-000001"},
		"binding of weight": {func(t *Table) {
			b := grant(t, "hostile", "best", "y").DeepCopy()
			b.Spec.Selector, b.Spec.Weight = "x", 1
			t.SetBinding(b)
		}, "allow id-000000", "allow best"},
		// One that comes to be considered after the change is left out, not taken as it is now.
		"identity gone": {gone, "allow id-000000", "allow id-000000"},
		"exception": {func(t *Table) {
			t.SetException(&v1.AzurePodIdentityException{
				ObjectMeta: metav1.ObjectMeta{Namespace: "hostile", Name: "e"},
				Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{v1.BindingLabel: "x"}},
			})
		}, "allow id-000000", "plain"},
		"pod gone": {func(t *Table) { t.RemovePod(hostile("p0")) }, "allow id-000000", "wait 8s 500 PodUnknown"},
		"label": {func(t *Table) {
			t.SetPod(identity.Pod{Namespace: "hostile", Name: "p0", Labels: map[string]string{v1.BindingLabel: "y"}})
		}, "allow id-000000", "wait 8s 404 NoBinding"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := besideHostile(n, 1, true)
				began := time.Now()
				answered := make(chan Decision, 1)
				go func() { answered <- table.Decide(hostile("p0"), identity.Selector{}, nil) }()
				synctest.Wait() // it rests, after the first batch
				tt.change(table)
				if got := decided(table.Decide(victim, identity.Selector{}, nil)); got != "allow web" {
					t.Errorf("the neighbor: %q", got)
				}
				if time.Since(began) != 0 {
					t.Errorf("the neighbor waited %v", time.Since(began))
				}
				d := <-answered
				if got := decided(d); got != tt.during {
					t.Errorf("meanwhile: %q, want %q", got, tt.during)
				}
				if took := time.Since(began); took != n/batch*restTime {
					t.Errorf("took %v, want a rest for each of %d batches", took, n/batch)
				}
				changed := false
				select {
				case <-d.Changed:
					changed = true
				default:
				}
				if want := name != "nothing"; changed != want {
					t.Errorf("changed: %v, want %v", changed, want)
				}
				if got := decided(table.Decide(hostile("p0"), identity.Selector{}, nil)); got != tt.then {
					t.Errorf("then: %q, want %q", got, tt.then)
				}
			})
		})
	}
}

// TestNoMixedGrants: a grant never joins a binding with an identity that was not there at the same
// time.
func TestNoMixedGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := besideHostile(10*batch, 1, true)
		last := hostile("id-000639")
		table.RemoveIdentity(last)
		answered := make(chan Decision, 1)
		named := identity.Selector{ClientID: "client-" + last.Name}
		b := table.bindings[last].DeepCopy()
		b.Spec.Weight = 1 // the first in order of precedence
		table.SetBinding(b)
		go func() { answered <- table.Decide(hostile("p0"), named, nil) }()
		synctest.Wait()
		table.RemoveBinding(last)
		id := anIdentity(last.Name)
		id.Namespace = last.Namespace
		table.SetIdentity(id)
		if d := <-answered; d.Kind == Allow {
			t.Error("allowed by a binding that was gone when the identity came")
		}
	})
}

// TestSlowVerdictsAreShared: any number of requests cost a few verdicts, also while bindings change
// all the time, and requests of another namespace with many bindings wait for one verdict at most.
func TestSlowVerdictsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, pods, requests = 4 * batch, 5, 50
		table := besideHostile(n, pods, true)
		for i := range n {
			grant(table, "sloppy", fmt.Sprintf("id-%06d", i), "many")
		}
		table.SetPod(identity.Pod{Namespace: "sloppy", Name: "p", Labels: map[string]string{v1.BindingLabel: "many"}})
		const once = n / batch * restTime
		began := time.Now()
		var group sync.WaitGroup
		for pod := range pods {
			for range requests {
				group.Go(func() { table.Decide(hostile(fmt.Sprint("p", pod)), identity.Selector{}, nil) })
			}
		}
		synctest.Wait()
		group.Go(func() {
			table.Decide(types.NamespacedName{Namespace: "sloppy", Name: "p"}, identity.Selector{}, nil)
			if took := time.Since(began); took > 3*once {
				t.Errorf("the other namespace waited %v, a verdict takes %v", took, once)
			}
		})
		done := make(chan struct{})
		go func() { group.Wait(); close(done) }()
		for changing := true; changing; {
			select {
			case <-done:
				changing = false
			case <-time.After(restTime):
				table.SetBinding(table.bindings[hostile("id-000000")])
			}
		}
		if took := time.Since(began); took > 2*(pods+1)*once {
			t.Errorf("%d requests took %v, a verdict %v", pods*requests, took, once)
		}
	})
}

// TestHostileChangesWakeNoNeighbor: what a namespace writes touches its own pods only.
func TestHostileChangesWakeNoNeighbor(t *testing.T) {
	table := besideHostile(2, 1, true)
	owner, borrowing := anIdentity("cloud"), anIdentity("borrowing")
	owner.Namespace, borrowing.Namespace = "shop", "hostile"
	owner.Spec.Type, borrowing.Spec.Type = v1.Federated, v1.Federated
	borrowing.Spec.SharedFrom = v1.IdentityReference{Namespace: "shop", Name: "cloud"}
	table.SetIdentity(owner)
	changed := table.Decide(victim, identity.Selector{}, nil).Changed
	for name, change := range map[string]func(){
		"a binding of the same selector": func() { grant(table, "hostile", "web", "web") },
		"an identity shared from theirs": func() { table.SetIdentity(borrowing) },
		"an exception": func() {
			table.SetException(&v1.AzurePodIdentityException{ObjectMeta: metav1.ObjectMeta{Namespace: "hostile", Name: "e"}})
		},
		"the owner, which others borrow": func() { table.SetIdentity(owner) },
	} {
		change()
		select {
		case <-changed:
			t.Errorf("%s woke the neighbor's requests", name)
		default:
		}
	}
}

// TestManyUses: a change of an identity costs as much as there are pods, not bindings or borrowers.
func TestManyUses(t *testing.T) {
	table := newTable(func(c *Config) { c.Standard = false })
	table.SetIdentity(anIdentity("one"))
	table.SetPod(identity.Pod{Namespace: "ns", Name: "web", Labels: map[string]string{v1.BindingLabel: "web"}})
	for i := range 1000 {
		table.SetBinding(aBinding(fmt.Sprint("b", i), "one", "web", 0))
	}
	table.Entitled()
	before := table.pods[key("web")].changed
	table.SetIdentity(anIdentity("one"))
	select {
	case <-before:
	default:
		t.Error("not touched")
	}
	if n := len(table.uses); n != 1 {
		t.Errorf("%d uses of one identity and selector", n)
	}
	o, _ := table.outcomeOf(key("web"))
	if len(o.grants) != 1 || o.grants[0].Binding.Name != "b0" {
		t.Errorf("grants %v", o.grants)
	}
}

// TestPendingPods: a namespace whose pods are all unknown leaves places to others.
func TestPendingPods(t *testing.T) {
	table := newTable(nil)
	for i := range maxPending + 5 {
		table.await(hostile(fmt.Sprint("p", i)))
	}
	if len(table.pending) != maxPending {
		t.Errorf("%d pods waited for", len(table.pending))
	}
	d := table.Decide(victim, identity.Selector{}, nil)
	table.SetPod(identity.Pod{Namespace: "shop", Name: "web", Labels: nil})
	select {
	case <-d.Changed:
	default:
		t.Error("the neighbor's request was not woken")
	}
}

// BenchmarkBesideHostile measures a neighbor's decision, and how late it begins, while a namespace
// with so many bindings of one selector changes them all the time, its pods ask, and the prefetcher
// looks at every change.
func BenchmarkBesideHostile(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // as nmi does
	for _, n := range []int{100, 10_000, 20_000} {
		for _, forceNamespaced := range []bool{true, false} {
			b.Run(fmt.Sprintf("bindings=%d/namespaced=%v", n, forceNamespaced), func(b *testing.B) {
				besideHostileFor(b, besideHostile(n, 20, forceNamespaced))
			})
		}
	}
}

func besideHostileFor(b *testing.B, table *Table) {
	stop := make(chan struct{})
	var group sync.WaitGroup
	loop := func(f func(), every time.Duration) {
		group.Go(func() {
			for {
				f()
				select {
				case <-stop:
					return
				case <-time.After(every):
				}
			}
		})
	}
	changing := table.bindings[hostile("id-000000")]
	loop(func() { table.SetBinding(changing) }, 5*time.Millisecond)
	loop(func() { table.Entitled() }, time.Millisecond)
	for i := range 20 {
		loop(func() { table.Decide(hostile(fmt.Sprint("p", i)), identity.Selector{}, nil) }, time.Millisecond)
	}
	var took, late []time.Duration
	for b.Loop() {
		// As a request does: it waits for the network, then for a CPU.
		timer := time.NewTimer(time.Millisecond)
		due := <-timer.C
		began := time.Now()
		table.Decide(victim, identity.Selector{}, nil)
		took, late = append(took, time.Since(began)), append(late, began.Sub(due))
	}
	close(stop)
	group.Wait()
	slices.Sort(took)
	slices.Sort(late)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
	b.ReportMetric(float64(late[len(late)*99/100].Nanoseconds())/1000, "late-p99-µs")
}

// BenchmarkSlowVerdict measures the CPU time of one verdict, without its rests.
func BenchmarkSlowVerdict(b *testing.B) {
	for _, n := range []int{batch, 10_000, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := besideHostile(n, 1, true)
			in := table.read(table.pods[hostile("p0")])
			b.ResetTimer()
			for b.Loop() {
				v := &verdict{}
				for some := range slices.Chunk(in.bindings, batch) {
					table.consider(v, in, some)
				}
			}
		})
	}
}
