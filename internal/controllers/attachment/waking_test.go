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

func TestStayTells(t *testing.T) {
	for name, stale := range map[string]bool{"that nobody needed": false, "that is to come back": true} {
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
				t.Error("does not tell whether something was about to leave")
			}
			if told := r.st.changes(); !slices.Contains(told, podNamed("a")) {
				t.Errorf("the pod does not hear that it stays: %v", told)
			}
			if told := r.st.changes(); len(told) > 0 {
				t.Errorf("told twice: %v", told)
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
		t.Error("nothing asks Azure whether podid may assign what is there")
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
		t.Errorf("lifted while it is to be there: %v", got)
	}
	if got := r.st.settle(nil, r.now); !slices.Equal(got, []types.NamespacedName{name}) {
		t.Errorf("in quarantine for good: lifted %v", got)
	}
	if again := r.st.settle(nil, r.now); len(again) > 0 {
		t.Errorf("lifted twice: %v", again)
	}
}

// Whoever comes and goes with a bad identity does not get it into the updates of
// the others.
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
		t.Error("remembered for good")
	}
}

func TestMisnamed(t *testing.T) {
	r := newRig(t)
	fake := computetest.NewFake()
	_, missing := fake.Get(t.Context(), r.group)
	m := New(Parts{Groups: r.groups, Cloud: fake}, Settings{})
	p := &pass{group: r.group, state: r.st}
	if !compute.IsNotFound(missing) || m.misnamed(t.Context(), p, missing) {
		t.Errorf("a group that is gone: %v", missing)
	}
	fake.SetGroup(r.group, compute.Identities{})
	if !m.misnamed(t.Context(), p, missing) {
		t.Error("believes that the group is gone")
	}
	if m.misnamed(t.Context(), p, errTest) {
		t.Error("takes any error for it")
	}
}

func TestComparisons(t *testing.T) {
	r := newRig(t)
	m := New(Parts{Groups: r.groups}, Settings{})
	kicked := 0
	for range 100 { // every second
		if m.Compare(r.group); r.woken() {
			kicked++
		}
		r.now = r.now.Add(time.Second)
	}
	if want := maxComparisons + int(100*time.Second/comparisonEvery); kicked < maxComparisons || kicked > want {
		t.Errorf("%d comparisons in 100 s, want %d to %d", kicked, maxComparisons, want)
	}
}
