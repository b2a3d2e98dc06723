package attachment

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/ledger"
)

// controllerOf returns a Controller with a ledger in memory, which cannot be written while fails is
// set.
func (r *rig) controllerOf(fails *bool) *Controller {
	api := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if *fails {
				return errTest
			}
			return c.Create(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if *fails {
				return errTest
			}
			return c.Delete(ctx, o, opts...)
		},
	}).WithIndex(&corev1.Node{}, lookup.NodesByGroup, func(client.Object) []string { return nil }).Build()
	m := NewController(Parts{Client: api, Groups: r.groups, Ledger: ledger.Store{Reader: api, Writer: api, Namespace: "kube-system", Name: "ledger"}}, Settings{})
	r.store(m)
	return m
}

// An identity of another writer that podid renewed, because it was orphaned, stays the other
// writer's, also for the next leader.
func TestForeignRenewed(t *testing.T) {
	r := newRig(t)
	red := prefix + "red"
	m := r.controllerOf(new(bool))
	r.place("web", "red")
	r.read(compute.Identities{UserAssigned: []string{red}, Orphaned: []string{red}})
	step := func(want assignment.Request) {
		t.Helper()
		plan := r.plan()
		if !slices.Equal(plan.Attach, want.Attach) || !slices.Equal(plan.Detach, want.Detach) || len(plan.Forget) > 0 {
			t.Fatalf("plan %+v, want %+v", plan, want)
		}
		r.write(m, plan)
		r.done(want)
		if err := m.save(t.Context(), r.group, r.st); err != nil {
			t.Fatal(err)
		}
		r.st.ledger.entries = r.stored(m) // a new leader reads it
	}
	step(assignment.Request{Detach: []string{red}})
	step(assignment.Request{Attach: []string{red}})
	have := compute.Identities{UserAssigned: []string{red}, PrincipalIDs: map[string]string{red: "new"}}
	r.read(have)
	r.groups.Leave(podNamed("web"))
	if plan := r.plan(); !plan.Idle() || len(plan.Forget) > 0 {
		t.Errorf("detaches what another writer attached: %+v", plan)
	}
	r.read(compute.Identities{}) // the other writer detaches it
	if plan := r.plan(); len(plan.Forget) != 1 {
		t.Errorf("the entry stays: %+v", plan)
	}
}

// Removing an entry from the ledger by hand keeps the identity attached.
func TestEntryRemovedByHand(t *testing.T) {
	r := newRig(t)
	red := prefix + "red"
	m := r.controllerOf(new(bool))
	r.place("web", "red")
	r.write(m, r.plan())
	r.done(assignment.Request{Attach: []string{red}})
	r.groups.Leave(podNamed("web"))
	var list corev1.ConfigMapList
	if err := m.ledger.Store.Reader.List(t.Context(), &list); err != nil || len(list.Items) != 1 {
		t.Fatal(list.Items, err)
	}
	cm := &list.Items[0]
	if err := ledger.SetEntries(cm, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.ledger.Store.Writer.Update(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err == nil || r.st.loaded() {
		t.Errorf("detaches without reading the ledger: %v", err)
	}
	if err := m.load(t.Context(), r.group, r.st); err != nil {
		t.Fatal(err)
	}
	r.wantIdle("an entry was removed by hand")
}

// An entry that could not be written is undone: until the next try, another writer may attach the
// identity.
func TestUnwrittenIsUndone(t *testing.T) {
	r := newRig(t)
	fails := true
	m := r.controllerOf(&fails)
	r.place("web", "red")
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err == nil {
		t.Fatal("no error")
	}
	if m.Healthy() == nil {
		t.Error("healthy although the ledger cannot be written")
	}
	r.now = r.now.Add(failureTTL)
	if err := m.Healthy(); err != nil {
		t.Errorf("unhealthy although there is nothing to write: %v", err)
	}
	if len(r.st.unrecorded([]string{prefix + "red"})) == 0 {
		t.Error("the entry stays although it was not written")
	}
	fails = false
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err != nil || len(r.st.unrecorded([]string{prefix + "red"})) > 0 {
		t.Errorf("does not recover: %v", err)
	}
	var list corev1.ConfigMapList
	if err := m.ledger.Store.Reader.List(t.Context(), &list); err != nil || len(list.Items) != 1 {
		t.Errorf("ledgers %v, %v", list.Items, err)
	}
}

// A needed identity that blocks the group is renewed, even if Azure lists it as usual.
func TestBlockerSurvivesRead(t *testing.T) {
	r := newRig(t, "red")
	red := prefix + "red"
	r.place("web", "red")
	_ = r.st.blocked(r.group, []string{red}, nil, errTest) // errTest itself
	r.read(compute.Identities{UserAssigned: []string{red}, ClientIDs: map[string]string{red: "c"}, PrincipalIDs: map[string]string{red: "p"}})
	plan := r.plan()
	if !slices.Equal(plan.Detach, []string{red}) {
		t.Fatalf("plan %+v", plan)
	}
	r.done(assignment.Request{Detach: plan.Detach})
	r.done(assignment.Request{Attach: []string{red}})
	r.read(compute.Identities{UserAssigned: []string{red}})
	r.wantIdle("again")
}

func TestOrphanDuringUpdate(t *testing.T) {
	r := newRig(t, "red")
	r.place("web", "red")
	have := compute.Identities{UserAssigned: []string{prefix + "red"}, Orphaned: []string{prefix + "red"}, Updating: true}
	if r.read(have); !r.plan().Idle() {
		t.Error("renews what is in flight")
	}
	have.Updating = false
	if r.read(have); r.plan().Idle() {
		t.Error("does not renew it")
	}
}

// A leader that finds a half-finished renewal does not renew the identity a second time.
func TestRenewalIsNotRepeated(t *testing.T) {
	r := newRig(t)
	red := prefix + "red"
	m := r.controllerOf(new(bool))
	r.st.ledger.entries = map[string]ledger.Entry{resource(t, "red").Key(): {ResourceID: red, PrincipalID: "before"}}
	r.place("web", "red")
	r.read(compute.Identities{Updating: true}) // its predecessor detached it for renewal
	r.write(m, r.plan())
	r.done(assignment.Request{Attach: []string{red}})
	r.read(compute.Identities{UserAssigned: []string{red}, PrincipalIDs: map[string]string{red: "after"}})
	r.wantIdle("renewed twice")
}
