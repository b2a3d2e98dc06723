package assignedidentity

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
)

func named(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "team", Name: name}
}

// calls records the pods that were woken.
type calls struct {
	caughtUp int
	woken    []types.NamespacedName
}

func (c *calls) catchUp()                          { c.caughtUp++ }
func (c *calls) wake(pods ...types.NamespacedName) { c.woken = append(c.woken, pods...) }

func TestBacklog(t *testing.T) {
	var b backlog
	var c calls
	b.placed(named("early"), c.catchUp)
	b.begin([]types.NamespacedName{named("early"), named("late"), named("last")}, c.catchUp, c.wake)
	if !slices.Equal(c.woken, []types.NamespacedName{named("late"), named("last")}) {
		t.Errorf("waits for pods that may be gone already without a look at them; looks at %v", c.woken)
	}
	b.placed(named("late"), c.catchUp)
	b.placed(named("new"), c.catchUp) // arrived in the meantime
	if c.caughtUp != 0 {
		t.Error("does not wait for the last one")
	}
	for range 2 {
		if b.placed(named("last"), c.catchUp); c.caughtUp != 1 {
			t.Errorf("caught up %d times", c.caughtUp)
		}
	}
}

func TestEmptyBacklog(t *testing.T) {
	var b backlog
	var c calls
	if b.begin(nil, c.catchUp, c.wake); c.caughtUp != 1 {
		t.Error("a cluster without pods keeps the first one waiting")
	}
}

func TestWriters(t *testing.T) {
	var c calls
	w := newWriters(2, c.wake)
	a, b := compute.Group{Name: "a"}, compute.Group{Name: "b"}
	if !w.enter(a, named("1")) || !w.enter(a, named("2")) {
		t.Fatal("no place")
	}
	if w.enter(a, named("3")) || w.enter(a, named("4")) || w.enter(a, named("3")) {
		t.Error("more than the limit")
	}
	if !w.enter(b, named("5")) {
		t.Error("one group keeps another waiting")
	}
	w.leave(a)
	w.leave(a)
	w.leave(b)
	if !slices.Equal(c.woken, []types.NamespacedName{named("3"), named("4")}) {
		t.Errorf("woke %v", c.woken)
	}
	if len(w.groups) != 0 {
		t.Errorf("remembers %d groups", len(w.groups))
	}
}

func TestWritersPassOn(t *testing.T) {
	var c calls
	w := newWriters(1, c.wake)
	group := compute.Group{Name: "a"}
	w.enter(group, named("1"))
	for _, pod := range []string{"2", "3", "4", "5"} {
		w.enter(group, named(pod))
		w.seen(named(pod)) // it has to wait, because no other pod gets a turn
	}
	w.leave(group)
	w.enter(group, named("3")) // by itself, before 2 arrives
	w.seen(named("2"))         // nothing to write anymore
	w.leave(group)
	w.seen(named("4")) // likewise
	if want := []types.NamespacedName{named("2"), named("4"), named("5")}; !slices.Equal(c.woken, want) {
		t.Errorf("woke %v, want %v", c.woken, want)
	}
	w.seen(named("5"))
	if len(w.groups)+len(w.called) != 0 {
		t.Errorf("remembers %d groups, %d pods", len(w.groups), len(w.called))
	}
}

func TestPostpone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Controller{progress: rate.NewLimiter(progressPerSecond, 1)}
		assigned := func(status, reason string) *v1.AzureAssignedIdentity {
			return &v1.AzureAssignedIdentity{Status: v1.AzureAssignedIdentityStatus{Status: status, Reason: reason}}
		}
		plan := func() assignment.PodPlan {
			return assignment.PodPlan{Create: []*v1.AzureAssignedIdentity{
				assigned(v1.StateCreated, ""), assigned(v1.StateAssigned, ""), assigned(v1.StateCreated, "why"),
			}}
		}
		if got, later := r.postpone(plan()); len(got.Create) != 3 || later != 0 {
			t.Errorf("the first: writes %d, later %v", len(got.Create), later)
		}
		got, later := r.postpone(plan())
		if len(got.Create) != 2 || later < progressRetry || later > 2*progressRetry {
			t.Errorf("of a flood: writes %d, later %v", len(got.Create), later)
		}
		for _, a := range got.Create {
			if a.Status.Status == v1.StateCreated && a.Status.Reason == "" {
				t.Error("postpones what has something to say")
			}
		}
		<-time.After(time.Second)
		if got, _ := r.postpone(plan()); len(got.Create) != 3 {
			t.Error("never writes it")
		}
	})
}

func TestWaiting(t *testing.T) {
	w := waiting{since: map[types.NamespacedName]time.Time{}}
	began := time.Unix(1000, 0)
	later := began.Add(time.Minute)
	if got := w.note(named("a"), false, began); got != began || len(w.since) != 0 {
		t.Error("waits although it has all")
	}
	w.note(named("a"), true, began)
	if got := w.note(named("a"), true, later); got != began {
		t.Error("forgets since when")
	}
	if got := w.note(named("a"), false, later); got != began || len(w.since) != 0 {
		t.Error("remembers too long")
	}
}
