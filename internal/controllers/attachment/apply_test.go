package attachment

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/reason"
)

// picky is a Cloud that refuses one identity without naming it.
type picky struct {
	Cloud
	bad  string
	on   func() // called for each update that it accepts
	seen []string
}

func (c *picky) Patch(_ context.Context, group compute.Group, attach, _ []string) error {
	names := strings.ReplaceAll(strings.Join(attach, ""), prefix, " ")
	if slices.Contains(attach, prefix+c.bad) {
		c.seen = append(c.seen, "no"+names)
		return computetest.Refusal(group, http.StatusBadRequest, "BadRequest", "one of them is bad", attach, 0)
	}
	c.seen = append(c.seen, "yes"+names)
	c.on()
	return nil
}

// Get fails, so that the next pass reads what was attached.
func (c *picky) Get(context.Context, compute.Group) (compute.Identities, error) {
	return compute.Identities{}, errTest
}

// ClientID finds every identity.
func (c *picky) ClientID(context.Context, string) (string, error) { return "client", nil }

// New needs are not blocked by an ongoing bisection, and its results so far are kept.
func TestNewNeedsDuringBisection(t *testing.T) {
	r := newRig(t)
	cloud := &picky{bad: "d", on: func() {}}
	m := NewController(Parts{Groups: r.groups, Cloud: cloud, Metrics: observe.NewMetrics(nil)}, Settings{AllowClusterIdentities: true})
	p := &pass{group: r.group, state: r.st}
	pass := func(want ...string) {
		t.Helper()
		cloud.seen = nil
		plan := r.plan()
		r.st.demand.burstDelay(r.now.Add(maxBurstDelay))
		r.record(slices.Concat(plan.Attach, plan.Probation))
		if err := m.apply(t.Context(), p, plan); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, cloud.seen); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	r.place("web", "a", "b", "c", "d")
	cloud.on = func() { r.place("late", "e"); cloud.on = func() {} }
	pass("no a b c d", "yes a b")
	cloud.on = func() { r.place("later", "f"); cloud.on = func() {} }
	pass("yes e", "no c d", "yes c")
	pass("yes f", "no d")
	if got := r.place("late", "d"); got.Reason != reason.IdentityRefused.Name() {
		t.Errorf("the culprit: %+v", got)
	}
	if plan := r.plan(); len(plan.Attach)+len(plan.Probation) > 0 || len(r.st.trouble.remainders) > 0 {
		t.Errorf("left: %+v, %v", r.plan(), r.st.trouble.remainders)
	}
	// A need for a refused identity does not interrupt a bisection.
	if r.place("again", "d"); !r.st.demand.firstAsked.IsZero() {
		t.Error("a need for what is in quarantine counts as new")
	}
}

func TestRequests(t *testing.T) {
	r := newRig(t)
	r.st.keep([]request{
		{Request: assignment.Request{Attach: []string{"/never"}}},
		{Request: assignment.Request{Attach: []string{"/B", "/gone"}, Detach: []string{"/x"}}, remainder: true},
		{Request: assignment.Request{Attach: []string{"/gone"}}, remainder: true},
	})
	got := requests(assignment.GroupPlan{Attach: []string{"/a", "/b", "/c"}, Detach: []string{"/x", "/y"}, Probation: []string{"/p"}}, r.st.trouble.takeRemainders())
	want := []request{
		{Request: assignment.Request{Attach: []string{"/a", "/c"}, Detach: []string{"/y"}}},
		{Request: assignment.Request{Attach: []string{"/b"}, Detach: []string{"/x"}}, remainder: true},
		{Request: assignment.Request{Attach: []string{"/p"}}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(request{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A needed, immutable identity that blocks every update has to be removed by hand.
func TestBlockedByImmutable(t *testing.T) {
	r := newRig(t, "red")
	r.place("web", "red", "blue")
	list := map[string]bool{resource(t, "red").Key(): true}
	err := r.st.blocked(r.group, []string{prefix + "red"}, list, errTest)
	r.st.failed(err, 1, r.now)
	if got := r.place("other", "blue"); got.Reason != reason.GroupBlocked.Name() || !strings.Contains(got.Message, "az vm identity remove") {
		t.Errorf("progress %+v", got)
	}
	if len(r.st.azure.stale) > 0 {
		t.Error("marked for renewal")
	}
}

// A namespace with many pre-assigned identities leaves room for another one's. The owners of those
// left out are notified.
func TestMaxPreassigned(t *testing.T) {
	r := newRig(t)
	said := warnings{}
	m := NewController(Parts{Groups: r.groups, Events: said}, Settings{MayPreassign: func(namespace string) bool { return namespace != "banned" }})
	preassign := func(namespace, name string) {
		id := preassigned(name)
		id.Namespace, id.Name = namespace, name
		m.preassign(id, false)
	}
	for i := range MaxPreassigned + 50 {
		preassign("big", "id"+string(rune('a'+i%26))+strings.Repeat("x", i/26))
	}
	preassign("small", "zzz")
	preassign("banned", "no")
	p := &pass{group: r.group, state: r.st, extra: r.groups.preassignedTo(r.group)}
	m.reportLeftOut(t.Context(), p)
	if len(p.extra.set) != MaxPreassigned || len(p.extra.names) != MaxPreassigned || !p.extra.set.Has(resource(t, "zzz").Key()) {
		t.Errorf("%d identities, %d names", len(p.extra.set), len(p.extra.names))
	}
	if len(p.extra.leftOut) != 51 || len(said) != 52 || said[types.NamespacedName{Namespace: "banned", Name: "no"}] == "" {
		t.Errorf("%d left out, %d refused", len(p.extra.leftOut), len(said))
	}
	clear(said)
	if m.reportLeftOut(t.Context(), p); len(said) > 0 {
		t.Error("refused again without a change")
	}
}
