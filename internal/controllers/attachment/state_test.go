package attachment

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/reason"
)

const prefix = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"

func resource(t *testing.T, name string) identity.ResourceID {
	t.Helper()
	id, err := identity.ParseResourceID(prefix + name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func needFor(t *testing.T, name string) assignment.Need {
	t.Helper()
	return assignment.Need{ID: resource(t, name), Identity: types.NamespacedName{Namespace: "team", Name: name}}
}

func podNamed(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "team", Name: name}
}

// rig is one group, and records who is notified and woken.
type rig struct {
	t        *testing.T
	now      time.Time
	groups   *Groups
	group    compute.Group
	st       *state
	notified []types.NamespacedName
	queue    workqueue.TypedRateLimitingInterface[compute.Group]
}

// newRig returns a group to which podid attached the named identities.
func newRig(t *testing.T, names ...string) *rig {
	t.Helper()
	r := &rig{t: t, now: time.Unix(1000, 0), group: compute.Group{Kind: compute.VM, SubscriptionID: "s", ResourceGroup: "rg", Name: "vm"}}
	r.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[compute.Group]())
	t.Cleanup(r.queue.ShutDown)
	r.groups = NewGroups(func() time.Time { return r.now }, func(pods ...types.NamespacedName) { r.notified = append(r.notified, pods...) }, func(...types.NamespacedName) {})
	if err := r.groups.wake.Source(t.Context(), r.queue); err != nil {
		t.Fatal(err)
	}
	r.st = r.groups.of(r.group)
	var have []string
	r.st.ledger.entries = map[string]ledger.Entry{}
	for _, name := range names {
		id := resource(t, name)
		have = append(have, id.String())
		r.st.ledger.entries[id.Key()] = ledger.Entry{ResourceID: id.String(), ClientID: "Client"}
	}
	r.read(compute.Identities{UserAssigned: have})
	return r
}

// store reads the stored ledger, as a first pass does.
func (r *rig) store(m *Controller) {
	r.t.Helper()
	var err error
	if r.st.ledger.stored, err = m.ledger.Store.Load(r.t.Context(), r.group); err != nil {
		r.t.Fatal(err)
	}
}

// stored returns the entries of the stored ledger.
func (r *rig) stored(m *Controller) map[string]ledger.Entry {
	r.t.Helper()
	page, err := m.ledger.Store.Load(r.t.Context(), r.group)
	if err != nil {
		r.t.Fatal(err)
	}
	return page.Entries
}

// write writes a plan to the ledger, as before an update.
func (r *rig) write(m *Controller, plan assignment.GroupPlan) {
	r.t.Helper()
	if err := m.record(r.t.Context(), r.group, r.st, plan); err != nil {
		r.t.Fatal(err)
	}
}

// record adds ledger entries for what is about to be attached.
func (r *rig) record(ids []string) {
	for _, id := range ids {
		if _, ok := r.st.ledger.entries[ledger.Key(id)]; !ok && !r.st.azure.current.Has(ledger.Key(id)) {
			r.st.ledger.entries[ledger.Key(id)] = ledger.Entry{ResourceID: id}
		}
	}
}

// done records a successful update, including the ledger before it and the read after it.
func (r *rig) done(req assignment.Request) (lifted []types.NamespacedName) {
	r.record(req.Attach)
	lifted = r.st.done(req)
	clear(r.st.azure.unread)
	return lifted
}

func (r *rig) read(have compute.Identities) { r.st.read(have, nil, r.now) }

// woken reports whether the group was woken since the last call.
func (r *rig) woken() bool {
	woken := r.queue.Len() > 0
	for range r.queue.Len() {
		group, _ := r.queue.Get()
		r.queue.Done(group)
	}
	return woken
}

// place places a pod that needs the named identities, and returns the progress of the first.
func (r *rig) place(pod string, names ...string) assignment.Progress {
	r.t.Helper()
	var needs []assignment.Need
	for _, name := range names {
		needs = append(needs, needFor(r.t, name))
	}
	return r.groups.Place(podNamed(pod), r.group, needs)[0]
}

func (r *rig) plan() assignment.GroupPlan { return r.st.plan(preassignedSet{}, nil, 0, r.now) }

// wantIdle expects that there is nothing to update.
func (r *rig) wantIdle(otherwise string) {
	r.t.Helper()
	if plan := r.plan(); !plan.Idle() {
		r.t.Errorf("%s: %+v", otherwise, plan)
	}
}

func (r *rig) usable(name string) bool {
	r.st.mu.Lock()
	defer r.st.mu.Unlock()
	return r.st.progress(resource(r.t, name).Key(), requester{}).Status == v1.StateAssigned
}

func TestPlace(t *testing.T) {
	r := newRig(t, "red")
	if got := r.place("a", "red"); got.Status != v1.StateAssigned || r.woken() {
		t.Errorf("what is there: %+v", got)
	}
	if got := r.place("b", "blue"); got.Status != v1.StateCreated || !r.woken() {
		t.Errorf("what is missing: %+v", got)
	}
	if got := r.place("c", "blue"); got.Status != v1.StateCreated || r.woken() {
		t.Errorf("what is on its way: %+v", got)
	}
	if plan := r.plan(); !slices.Equal(plan.Attach, []string{prefix + "blue"}) || len(plan.Detach) > 0 {
		t.Errorf("plan %+v", plan)
	}
	r.done(assignment.Request{Attach: []string{prefix + "blue"}})
	notified := r.st.changes()
	slices.SortFunc(notified, func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) })
	if diff := cmp.Diff([]types.NamespacedName{podNamed("b"), podNamed("c")}, notified); diff != "" {
		t.Errorf("notified (-want +got):\n%s", diff)
	}
	if again := r.st.changes(); len(again) > 0 {
		t.Errorf("notified twice: %v", again)
	}
}

func TestLeave(t *testing.T) {
	r := newRig(t, "red")
	r.place("a", "red")
	r.place("b", "red")
	r.groups.Leave(podNamed("a"))
	if r.woken() || !r.plan().Idle() {
		t.Error("another pod still needs it")
	}
	r.place("b", "blue") // instead of red
	if !r.woken() {
		t.Error("not woken for what is not needed any more")
	}
	plan := r.plan()
	if !slices.Equal(plan.Detach, []string{prefix + "red"}) {
		t.Fatalf("plan %+v", plan)
	}
	// From here to the end of the update, pods may not use it.
	if got := r.place("a", "red"); got.Status == v1.StateAssigned || !r.woken() {
		t.Error("Assigned while it is being detached")
	}
	r.done(assignment.Request{Detach: plan.Detach})
	if got := r.place("a", "red"); got.Status == v1.StateAssigned || len(r.st.ledger.entries) > 0 {
		t.Error("Assigned after it was detached")
	}
	r.groups.Leave(podNamed("unknown"))
}

func TestGraceRestarts(t *testing.T) {
	r := newRig(t, "red")
	wait := func() time.Duration { return r.st.plan(preassignedSet{}, nil, time.Hour, r.now).Next.Sub(r.now) }
	r.place("a", "red")
	r.groups.Leave(podNamed("a"))
	if got := wait(); got != time.Hour {
		t.Fatalf("leaves in %v", got)
	}
	r.now = r.now.Add(time.Minute)
	r.place("b", "red")
	r.groups.Leave(podNamed("b"))
	if got := wait(); got != time.Hour {
		t.Errorf("leaves in %v, counted from the first pod", got)
	}
}

func TestMoves(t *testing.T) {
	r := newRig(t, "red")
	r.place("a", "red")
	other := r.group
	other.Name = "vm2"
	if got := r.groups.Place(podNamed("a"), other, []assignment.Need{needFor(t, "red")}); !got[0].Unknown {
		t.Errorf("on the other node: %+v", got)
	}
	if plan := r.plan(); len(plan.Detach) != 1 {
		t.Error("kept where the pod was")
	}
}

func TestUnknown(t *testing.T) {
	r := newRig(t)
	r.st.azure.current = nil
	if got := r.place("a", "red"); !got.Unknown {
		t.Errorf("before Azure was read: %+v", got)
	}
	r.st.failed(errTest, time.Second, r.now)
	if got := r.place("a", "red"); got.Unknown || got.Status != v1.StateCreated || got.Complaint != "" {
		t.Errorf("when Azure does not answer: %+v", got)
	}
	for range complainAfter {
		r.st.failed(errTest, time.Second, r.now)
	}
	if got := r.place("a", "red"); got.Complaint == "" {
		t.Error("a lasting failure is not reported")
	}
}

func TestBurstDelay(t *testing.T) {
	r := newRig(t)
	if r.st.demand.burstDelay(r.now) != 0 {
		t.Error("waits without needs")
	}
	began := r.now
	for i, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"} {
		r.place(name, name)
		wait := r.st.demand.burstDelay(r.now)
		if want := min(burstGap, began.Add(maxBurstDelay).Sub(r.now)); wait != max(want, 0) {
			t.Errorf("waits %v after %d, want %v", wait, i, want)
		}
		r.now = r.now.Add(burstGap - time.Millisecond)
	}
	r.now = r.now.Add(burstGap)
	if r.st.demand.burstDelay(r.now) != 0 || !r.st.demand.firstAsked.IsZero() {
		t.Error("waits forever")
	}
}

func TestImmutable(t *testing.T) {
	for _, by := range []string{"client", prefix + "RED"} {
		r := newRig(t, "red")
		m := NewController(Parts{Groups: r.groups}, Settings{Immutable: []string{" " + by, ""}})
		if plan := r.st.plan(preassignedSet{}, m.immutable, 0, r.now); len(plan.Detach) > 0 {
			t.Errorf("immutable by %s: detaches %v", by, plan.Detach)
		}
	}
}

func TestImmutableByAzuresClientID(t *testing.T) {
	r := newRig(t, "red")
	m := NewController(Parts{Groups: r.groups}, Settings{Immutable: []string{"AAAA-bbbb"}})
	id := resource(t, "red")
	r.st.ledger.entries[id.Key()] = ledger.Entry{ResourceID: id.String()} // its AzureIdentity has no client ID
	r.read(compute.Identities{UserAssigned: []string{id.String()}, ClientIDs: map[string]string{id.String(): "aaaa-BBBB"}})
	if plan := r.st.plan(preassignedSet{}, m.immutable, 0, r.now); len(plan.Detach) > 0 {
		t.Errorf("detaches %v", plan.Detach)
	}
}

func TestMarkUncertain(t *testing.T) {
	r := newRig(t, "red")
	r.st.markUncertain(assignment.Request{Detach: []string{prefix + "red"}, Attach: []string{prefix + "blue"}}, errTest)
	if r.usable("red") || r.usable("blue") {
		t.Error("counts on an update whose outcome is unknown")
	}
	if r.st.known() {
		t.Error("does not read Azure")
	}
	if !r.st.ledger.has(resource(t, "red").Key()) {
		t.Error("not in the ledger any more")
	}
}

func TestRetry(t *testing.T) {
	r := newRig(t)
	key := resource(t, "bad").Key()
	r.place("a", "bad")
	r.woken()
	r.st.trouble.quarantined[key] = &quarantine{retry: r.now.Add(time.Hour), retries: rate.NewLimiter(rate.Every(retryEvery), maxRetries)}
	for i := range maxRetries {
		r.groups.retry(key)
		if !r.woken() || len(r.plan().Probation) != 1 {
			t.Fatalf("change %d causes no retry", i)
		}
		r.st.trouble.quarantined[key].retry = r.now.Add(time.Hour) // refused again
	}
	r.groups.retry(key)
	if r.woken() || len(r.plan().Probation) > 0 {
		t.Error("changing the object in a loop causes updates without limit")
	}
	r.now = r.now.Add(retryEvery)
	if r.groups.retry(key); !r.woken() {
		t.Error("a later change causes no retry")
	}
}

func TestDrop(t *testing.T) {
	r := newRig(t, "red")
	r.groups.drop(r.group)
	if len(r.groups.states) != 1 {
		t.Error("forgets a group with ledger entries")
	}
	r.done(assignment.Request{Detach: []string{prefix + "red"}})
	r.place("a", "blue")
	r.groups.drop(r.group)
	if len(r.groups.states) != 1 {
		t.Error("forgets a group that a pod needs")
	}
	r.groups.Leave(podNamed("a"))
	r.groups.drop(r.group)
	if len(r.groups.states) != 0 {
		t.Error("does not forget an unused group")
	}
}

func TestProgress(t *testing.T) {
	refused := assignment.State{Status: v1.StateCreated, Reason: reason.IdentityRefused.Name()}
	trouble := assignment.State{Status: v1.StateCreated, Reason: reason.GroupForbidden.Name()}
	for _, c := range []struct {
		name       string
		identity   string
		quarantine bool
		trouble    assignment.State
		want       assignment.State
	}{
		{name: "there", identity: "red", want: assignment.State{Status: v1.StateAssigned}},
		{name: "on its way", identity: "blue", want: assignment.State{Status: v1.StateCreated}},
		{name: "refused", identity: "blue", quarantine: true, want: refused},
		{name: "attached, but Azure refused to detach it", identity: "red", quarantine: true, want: assignment.State{Status: v1.StateAssigned}},
		{name: "group in trouble", identity: "blue", trouble: trouble, want: trouble},
		{name: "refused, group in trouble", identity: "blue", quarantine: true, trouble: trouble, want: refused},
		{name: "group in trouble, but there", identity: "red", trouble: trouble, want: assignment.State{Status: v1.StateAssigned}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, "red")
			r.st.trouble.group = c.trouble
			if c.quarantine {
				r.st.trouble.quarantined[resource(t, c.identity).Key()] = &quarantine{state: refused}
			}
			if got := r.place("a", c.identity); got.State != c.want {
				t.Errorf("state %+v, want %+v", got.State, c.want)
			}
		})
	}
}

func TestExponential(t *testing.T) {
	for times, want := range []time.Duration{time.Second, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		if got := exponential(time.Second, times, 5*time.Second); got != want {
			t.Errorf("after %d: %v, want %v", times, got, want)
		}
	}
	if got := exponential(time.Second, 1_000_000, time.Minute); got != time.Minute {
		t.Errorf("after many: %v", got)
	}
}

func TestInFlight(t *testing.T) {
	// A MIC died while Azure attached red for it.
	r := newRig(t)
	red, blue := resource(t, "red"), resource(t, "blue")
	r.st.azure.current = nil
	r.st.ledger.entries = map[string]ledger.Entry{red.Key(): {ResourceID: red.String()}, blue.Key(): {ResourceID: blue.String(), Foreign: true}}
	r.place("web", "red", "blue")
	during := compute.Identities{UserAssigned: []string{red.String(), blue.String()}, Updating: true}
	for range 2 {
		r.read(during)
		if r.usable("red") {
			t.Error("Assigned while in flight")
		}
		if !r.usable("blue") {
			t.Error("not Assigned although it was attached before")
		}
		if plan := r.plan(); !plan.Idle() || len(plan.Forget) > 0 {
			t.Errorf("plan during the update: %+v", plan)
		}
		if !r.st.known() || r.st.azure.pollDelay() != pollInterval {
			t.Error("does not poll")
		}
		if r.st.known() {
			t.Error("polls without reading Azure")
		}
	}
	r.now = r.now.Add(patchTimeout)
	r.read(during)
	if !r.usable("red") {
		t.Error("waits for another writer's long update")
	}
	during.Updating = false
	r.read(during)
	if !r.usable("red") || r.st.azure.pollDelay() != 0 {
		t.Error("not Assigned after the update")
	}
	during.Updating = true
	r.read(during)
	if !r.usable("red") {
		t.Error("not Assigned during another writer's update, although it was before")
	}
}

func TestUnneededQuarantine(t *testing.T) {
	r := newRig(t, "red")
	bad := resource(t, "bad")
	name := podNamed("bad")
	r.place("web", "bad")
	r.st.trouble.quarantined[bad.Key()] = &quarantine{identities: []types.NamespacedName{name}}
	r.st.trouble.quarantined[resource(t, "red").Key()] = &quarantine{} // Azure refused to detach it
	if got := r.st.settle(nil, r.now); len(got) > 0 {
		t.Errorf("lifted while a pod needs it: %v", got)
	}
	r.woken()
	r.groups.Leave(podNamed("web"))
	if !r.woken() {
		t.Error("not woken")
	}
	if got := r.st.settle(nil, r.now); !slices.Equal(got, []types.NamespacedName{name}) || len(r.st.trouble.quarantined) != 1 {
		t.Errorf("lifted %v, left %d", got, len(r.st.trouble.quarantined))
	}
}

func TestRenewal(t *testing.T) {
	red := prefix + "red"
	ids := func(client, principal string) compute.Identities {
		return compute.Identities{
			UserAssigned: []string{red}, ClientIDs: map[string]string{red: client}, PrincipalIDs: map[string]string{red: principal},
		}
	}
	orphaned := compute.Identities{UserAssigned: []string{red}, Orphaned: []string{red}}
	for _, c := range []struct {
		name    string
		foreign bool
		reads   []compute.Identities
		detach  int
	}{
		{"unchanged", false, []compute.Identities{ids("c1", "p1"), ids("C1", "P1")}, 0},
		{"other principal", false, []compute.Identities{ids("c1", "p1"), ids("c2", "p2")}, 1},
		{"other principal, not ledgered", true, []compute.Identities{ids("c1", "p1"), ids("c2", "p2")}, 0},
		{"nothing behind it", false, []compute.Identities{ids("c1", "p1"), orphaned}, 1},
		{"nothing behind it, not ledgered", true, []compute.Identities{orphaned}, 1},
		{"something behind it again", false, []compute.Identities{orphaned, ids("c1", "p1")}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, "red")
			if c.foreign {
				clear(r.st.ledger.entries)
			}
			r.place("web", "red")
			for _, have := range c.reads {
				r.read(have)
			}
			plan := r.plan()
			if len(plan.Detach) != c.detach {
				t.Fatalf("plan %+v", plan)
			}
			if c.detach > 0 {
				r.done(assignment.Request{Detach: plan.Detach})
				if next := r.plan(); !slices.Equal(next.Attach, []string{red}) || len(next.Detach) > 0 {
					t.Errorf("then %+v", next)
				}
			}
		})
	}
}

func TestUnneededOrphan(t *testing.T) {
	r := newRig(t)
	r.read(compute.Identities{UserAssigned: []string{prefix + "red"}, Orphaned: []string{prefix + "red"}})
	r.wantIdle("detaches what is neither ledgered nor needed")
}

func TestMismatches(t *testing.T) {
	r := newRig(t, "red")
	red := prefix + "red"
	n := needFor(t, "red")
	n.ClientID = "NEW"
	r.groups.Place(podNamed("web"), r.group, []assignment.Need{n})
	r.read(compute.Identities{UserAssigned: []string{red}, ClientIDs: map[string]string{red: "old"}})
	found := r.st.openMismatches()
	if len(found) != 1 || found[0].declared != "new" || found[0].listed != "old" {
		t.Fatalf("mismatches %+v", found)
	}
	if r.st.resolve(found[0], "old") || len(r.st.openMismatches()) > 0 || len(r.st.azure.stale) > 0 {
		t.Error("an AzureIdentity that is wrong has its identity attached again")
	}
	if !r.st.resolve(found[0], "new") || len(r.plan().Detach) != 1 {
		t.Error("a recreated identity is not attached again")
	}
}

func TestBlocked(t *testing.T) {
	r := newRig(t, "owned")
	r.place("web", "needed")
	r.place("web2", "owned")
	if err := r.st.blocked(r.group, []string{prefix + "needed", prefix + "owned"}, nil, errTest); !errors.Is(err, errTest) {
		t.Errorf("error %v", err)
	}
	if !r.st.azure.stale[resource(t, "needed").Key()] || !r.st.azure.stale[resource(t, "owned").Key()] {
		t.Error("not marked for renewal")
	}
	err := r.st.blocked(r.group, []string{prefix + "foreign"}, nil, errTest)
	r.st.failed(err, time.Second, r.now)
	if got := r.place("web", "needed"); got.Reason != reason.GroupBlocked.Name() {
		t.Errorf("progress %+v", got)
	}
}

type testError string

func (e testError) Error() string { return string(e) }

const errTest = testError("refused")

// preassigned is an AzureIdentity for all node groups.
func preassigned(name string) *v1.AzureIdentity {
	return &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1.PreassignAnnotation: v1.PreassignAll}},
		Spec:       v1.AzureIdentitySpec{ResourceID: prefix + name},
	}
}

// warnings are the refused pre-assignments.
type warnings map[types.NamespacedName]string

func (w warnings) PreassignmentRefused(id *v1.AzureIdentity, why string) {
	name := types.NamespacedName{Namespace: id.Namespace, Name: id.Name}
	if w[name] = why; why == "" {
		delete(w, name)
	}
}

func TestPreassign(t *testing.T) {
	id := func(annotation string) *v1.AzureIdentity {
		return &v1.AzureIdentity{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1.PreassignAnnotation: annotation}},
			Spec:       v1.AzureIdentitySpec{ResourceID: prefix + "red"},
		}
	}
	for annotation, want := range map[string]bool{
		"all": true, " ALL ": true, "vm": true, "RG/VM": true, "other, rg/vm": true,
		"/subscriptions/S/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm": true,
		"": false, "other": false, "vm2": false, "rg2/vm": false, ",": false,
	} {
		r := newRig(t)
		r.groups.Preassign(podNamed("red"), id(annotation))
		extra := r.groups.preassignedTo(r.group)
		set, names := extra.set, extra.names
		if set.Has(resource(t, "red").Key()) != want || len(names) != len(set) {
			t.Errorf("%q: %v", annotation, set)
		}
	}
	r := newRig(t)
	if !r.groups.Preassign(podNamed("red"), id("all")) || r.groups.Preassign(podNamed("red"), id("all")) {
		t.Error("does not report changes")
	}
	if !r.groups.Preassign(podNamed("red"), nil) || r.groups.Preassign(podNamed("red"), nil) {
		t.Error("does not report the end")
	}
	other := id("all")
	other.Spec.Type = v1.ServicePrincipal
	if r.groups.Preassign(podNamed("sp"), other) {
		t.Error("accepts an identity that nodes cannot have")
	}
}
