package attachment

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
)

func TestCancelDetachNotifies(t *testing.T) {
	for name, stale := range map[string]bool{"unneeded": false, "stale": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "red")
			if stale {
				r.place("first", "red")
				r.st.azure.stale[resource(t, "red").Key()] = true
			}
			if plan := r.plan(); len(plan.Detach) != 1 {
				t.Fatalf("plan %+v", plan)
			}
			if got := r.place("a", "red"); got.Status != v1.StateCreated {
				t.Fatalf("counts on what is about to leave: %+v", got)
			}
			if !r.st.cancelDetach() || r.st.cancelDetach() {
				t.Error("does not report whether anything was about to be detached")
			}
			if notified := r.st.changes(); !slices.Contains(notified, podNamed("a")) {
				t.Errorf("the pod is not notified that it stays: %v", notified)
			}
			if notified := r.st.changes(); len(notified) > 0 {
				t.Errorf("notified twice: %v", notified)
			}
		})
	}
}

func TestLastNeedWakes(t *testing.T) {
	r := newRig(t)
	r.read(compute.Identities{UserAssigned: []string{prefix + "foreign"}})
	r.place("a", "foreign")
	r.place("b", "foreign")
	if !r.woken() {
		t.Error("not woken to verify what is attached")
	}
	r.groups.Leave(podNamed("a"))
	if r.woken() {
		t.Error("woken for nothing")
	}
	r.groups.Leave(podNamed("b"))
	if !r.woken() {
		t.Error("a group whose nodes are gone is never forgotten")
	}
}

func TestQuarantineOfPreassigned(t *testing.T) {
	r := newRig(t)
	bad := resource(t, "bad")
	name := podNamed("bad")
	r.st.trouble.quarantined[bad.Key()] = &quarantine{identities: []types.NamespacedName{name}, until: r.now.Add(time.Minute)}
	if got := r.st.settle(assignment.Set{bad.Key(): bad.String()}, r.now); len(got) > 0 {
		t.Errorf("lifted while it is pre-assigned: %v", got)
	}
	if got := r.st.settle(nil, r.now); !slices.Equal(got, []types.NamespacedName{name}) {
		t.Errorf("not lifted: %v", got)
	}
	if again := r.st.settle(nil, r.now); len(again) > 0 {
		t.Errorf("lifted twice: %v", again)
	}
}

// A pod that comes and goes with a bad identity does not get it into the updates of others.
func TestComesAndGoes(t *testing.T) {
	r := newRig(t)
	bad := resource(t, "bad")
	r.place("a", "bad")
	r.st.trouble.quarantined[bad.Key()] = &quarantine{
		retry: r.now.Add(quarantineFirst), until: r.now.Add(quarantineMax), retries: rate.NewLimiter(rate.Every(retryEvery), maxRetries),
	}
	r.groups.Leave(podNamed("a"))
	r.st.settle(nil, r.now)
	r.place("a", "bad")
	r.place("b", "good")
	if plan := r.plan(); !slices.Equal(plan.Attach, []string{prefix + "good"}) || len(plan.Probation) > 0 {
		t.Errorf("plan %+v", plan)
	}
	r.groups.Leave(podNamed("a"))
	r.now = r.now.Add(quarantineMax)
	r.st.settle(nil, r.now)
	if len(r.st.trouble.quarantined) > 0 {
		t.Error("never forgotten")
	}
}

func TestMisnamed(t *testing.T) {
	r := newRig(t)
	fake := computetest.NewFake()
	_, missing := fake.Get(t.Context(), r.group)
	m := NewController(Parts{Groups: r.groups, Cloud: fake}, Settings{})
	p := &pass{group: r.group, state: r.st}
	if !compute.IsNotFound(missing) || m.misnamed(t.Context(), p, missing) {
		t.Errorf("a group that is gone: %v", missing)
	}
	fake.SetGroup(r.group, compute.Identities{})
	if !m.misnamed(t.Context(), p, missing) {
		t.Error("treats the group as missing")
	}
	if m.misnamed(t.Context(), p, errTest) {
		t.Error("treats any error as misnamed")
	}
}

func TestComparisons(t *testing.T) {
	r := newRig(t)
	fake := computetest.NewFake()
	m := NewController(Parts{Groups: r.groups, Cloud: fake}, Settings{})
	woken := 0
	for range 100 { // every second
		if m.Compare(r.group); r.woken() {
			woken++
		}
		r.now = r.now.Add(time.Second)
	}
	if want := maxComparisons + int(100*time.Second/comparisonEvery); woken < maxComparisons || woken > want {
		t.Errorf("%d comparisons in 100 s, want %d to %d", woken, maxComparisons, want)
	}
	r.now = r.now.Add(time.Hour)
	r.read(compute.Identities{})
	fake.PauseSubscription(r.group.SubscriptionID, time.Minute)
	if m.Compare(r.group); r.woken() {
		t.Error("compared while updates wait for Azure's limits")
	}
	fake.PauseSubscription(r.group.SubscriptionID, 0)
	if m.Compare(r.group); !r.woken() {
		t.Error("not compared afterwards")
	}
}
