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
	"github.com/podid-io/podid/internal/ledger"
)

// reconcilerOf makes a Reconciler with a ledger in memory; fails tells whether it
// cannot be written now.
func (r *rig) reconcilerOf(fails *bool) *Reconciler {
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
	}).WithIndex(&corev1.Node{}, NodesByGroup, func(client.Object) []string { return nil }).Build()
	return New(Parts{Client: api, Groups: r.groups, Ledger: ledger.Store{Reader: api, Writer: api, Namespace: "kube-system", Name: "ledger"}}, Settings{})
}

// What somebody else put on the machine and what podid took away only to put it
// back, because nothing was behind it any more, stays somebody else's, also for the
// next leader.
func TestForeignRenewed(t *testing.T) {
	r := newRig(t)
	red := prefix + "red"
	fails := false
	m := r.reconcilerOf(&fails)
	r.store(m)
	r.place("web", "red")
	r.read(compute.Identities{UserAssigned: []string{red}, Orphaned: []string{red}})
	step := func(want assignment.Request) {
		t.Helper()
		plan := r.plan()
		if !slices.Equal(plan.Attach, want.Attach) || !slices.Equal(plan.Detach, want.Detach) || len(plan.Forget) > 0 {
			t.Fatalf("plan %+v, want %+v", plan, want)
		}
		if err := m.record(t.Context(), r.group, r.st, plan); err != nil {
			t.Fatal(err)
		}
		r.done(want)
		if err := m.save(t.Context(), r.group, r.st); err != nil {
			t.Fatal(err)
		}
		// A new leader has only what is written.
		page, err := m.ledger.Load(t.Context(), r.group)
		if err != nil {
			t.Fatal(err)
		}
		r.st.ledger.entries = page.Entries
	}
	step(assignment.Request{Detach: []string{red}})
	step(assignment.Request{Attach: []string{red}})
	have := compute.Identities{UserAssigned: []string{red}, PrincipalIDs: map[string]string{red: "new"}}
	r.read(have)
	r.groups.Leave(podNamed("web"))
	if plan := r.plan(); !plan.Idle() || len(plan.Forget) > 0 {
		t.Errorf("takes away what somebody else put there: %+v", plan)
	}
	r.read(compute.Identities{}) // somebody takes it off
	if plan := r.plan(); len(plan.Forget) != 1 {
		t.Errorf("remembers it for good: %+v", plan)
	}
}

// Whoever strikes an entry out of the ledger keeps the identity where it is.
func TestStruckOut(t *testing.T) {
	r := newRig(t)
	red := prefix + "red"
	fails := false
	m := r.reconcilerOf(&fails)
	r.store(m)
	r.place("web", "red")
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err != nil {
		t.Fatal(err)
	}
	r.done(assignment.Request{Attach: []string{red}})
	r.groups.Leave(podNamed("web"))
	var list corev1.ConfigMapList
	if err := m.ledger.Reader.List(t.Context(), &list); err != nil || len(list.Items) != 1 {
		t.Fatal(list.Items, err)
	}
	cm := &list.Items[0]
	if err := ledger.SetEntries(cm, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.ledger.Writer.Update(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err == nil || r.st.loaded() {
		t.Errorf("takes it away by what it remembers: %v", err)
	}
	if err := m.load(t.Context(), r.group, r.st); err != nil {
		t.Fatal(err)
	}
	if plan := r.plan(); !plan.Idle() {
		t.Errorf("plan %+v", plan)
	}
}

// What could not be written down has not been asked for: it may become somebody
// else's until the next try.
func TestUnwrittenIsNotOurs(t *testing.T) {
	r := newRig(t)
	fails := true
	m := r.reconcilerOf(&fails)
	r.store(m)
	r.place("web", "red")
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err == nil {
		t.Fatal("no error")
	}
	if m.Healthy() == nil {
		t.Error("nobody hears that the ledger cannot be written")
	}
	r.now = r.now.Add(failureTTL)
	if err := m.Healthy(); err != nil {
		t.Errorf("not ready for good, with nothing to write: %v", err)
	}
	if len(r.st.unrecorded([]string{prefix + "red"})) == 0 {
		t.Error("claims what it has not written down")
	}
	fails = false
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err != nil || len(r.st.unrecorded([]string{prefix + "red"})) > 0 {
		t.Errorf("does not come back from it: %v", err)
	}
	var list corev1.ConfigMapList
	if err := m.ledger.Reader.List(t.Context(), &list); err != nil || len(list.Items) != 1 {
		t.Errorf("ledgers %v, %v", list.Items, err)
	}
}

// A needed identity that blocks the group leaves and comes back, also when Azure
// lists it as if nothing were wrong with it.
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
	if plan := r.plan(); !plan.Idle() {
		t.Errorf("again: %+v", plan)
	}
}

func TestOrphanDuringUpdate(t *testing.T) {
	r := newRig(t, "red")
	r.place("web", "red")
	have := compute.Identities{UserAssigned: []string{prefix + "red"}, Orphaned: []string{prefix + "red"}, Updating: true}
	if r.read(have); !r.plan().Idle() {
		t.Error("takes what is arriving for an orphan")
	}
	have.Updating = false
	if r.read(have); r.plan().Idle() {
		t.Error("does not renew it")
	}
}

// What is attached anew is whoever bears the name today: a leader that finds it half
// renewed does not renew it a second time.
func TestAnewIsNotStale(t *testing.T) {
	r := newRig(t)
	red := prefix + "red"
	m := r.reconcilerOf(new(bool))
	r.st.ledger.entries = map[string]ledger.Entry{resource(t, "red").Key(): {ResourceID: red, PrincipalID: "before"}}
	r.store(m)
	r.place("web", "red")
	r.read(compute.Identities{Updating: true}) // the leader before took it away, to put it back
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err != nil {
		t.Fatal(err)
	}
	r.done(assignment.Request{Attach: []string{red}})
	r.read(compute.Identities{UserAssigned: []string{red}, PrincipalIDs: map[string]string{red: "after"}})
	if plan := r.plan(); !plan.Idle() {
		t.Errorf("renewed twice: %+v", plan)
	}
}
