package attachment

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/ledger/ledgertest"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/reason"
)

func longID(t *testing.T, n int) identity.ResourceID {
	t.Helper()
	id, err := identity.ParseResourceID(ledgertest.LongID(n))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// limited is an API server in memory that refuses ConfigMaps beyond quota; 0 means any number.
func limited(quota int) client.Client {
	builder := fake.NewClientBuilder().WithIndex(&corev1.Node{}, lookup.NodesByGroup, func(client.Object) []string { return nil })
	return ledgertest.Limit(builder, quota).Build()
}

// controllerOn returns a Controller with the ledger on that API server.
func (r *rig) controllerOn(api client.Client) *Controller {
	m := NewController(Parts{
		Client: api, Groups: r.groups, Metrics: observe.NewMetrics(nil),
		Ledger: ledger.Store{Reader: api, Writer: api, Namespace: "kube-system", Name: "ledger"},
	}, Settings{})
	r.store(m)
	return m
}

// attachAll makes passes, as Reconcile does, until there is nothing more to attach.
func (r *rig) attachAll(m *Controller) {
	r.t.Helper()
	for range 200 {
		p := &pass{group: r.group, state: r.st, populated: true}
		plan, refused := m.admit(r.t.Context(), p, r.plan())
		if err := m.record(r.t.Context(), r.group, r.st, plan); err != nil {
			if m.refusePage(r.t.Context(), p, plan, err) {
				continue
			}
			r.t.Fatal(err)
		}
		r.done(assignment.Request{Attach: slices.Concat(plan.Attach, plan.Probation)})
		if plan.Idle() && !refused {
			return
		}
	}
	r.t.Fatal("no end of passes")
}

func (r *rig) placeLong(namespace string, from, to int) {
	r.t.Helper()
	for i := from; i < to; i++ {
		name := types.NamespacedName{Namespace: namespace, Name: fmt.Sprint("id-", i)}
		r.groups.Place(types.NamespacedName{Namespace: namespace, Name: fmt.Sprint("pod-", i)}, r.group,
			[]assignment.Need{{ID: longID(r.t, i), ClientID: "11111111-2222-3333-4444-555555555555", Identity: name}})
	}
}

// A namespace that needs thousands of identities gets some of them. Each of the others is refused
// by name, and another namespace still gets its own.
func TestLedgerRoomIsShared(t *testing.T) {
	r := newRig(t)
	m := r.controllerOn(limited(0))
	const many = 4000
	r.placeLong("greedy", 0, many)
	r.attachAll(m)
	attached := len(r.st.ledger.entries)
	if attached < 1585 || attached == many {
		t.Errorf("%d of %d identities of one namespace attached", attached, many)
	}
	for i := range many {
		key := longID(t, i).Key()
		state := r.st.progress(key, requester{}).State
		if _, ok := r.st.ledger.entries[key]; !ok && (state.Reason != reason.LedgerFull.Name() || !strings.Contains(state.Message, "no room")) {
			t.Fatalf("identity %d is neither attached nor refused by name: %+v", i, state)
		}
	}
	if r.place("web", "victim"); r.progressed("victim") != v1.StateCreated {
		t.Fatal("Assigned before it was attached")
	}
	r.attachAll(m)
	if r.progressed("victim") != v1.StateAssigned {
		t.Error("another namespace gets nothing")
	}
	record, err := m.ledger.Store.Load(t.Context(), r.group)
	if err != nil || !maps.Equal(record.Entries, r.st.ledger.entries) {
		t.Errorf("%d entries stored, want %d (%v)", len(record.Entries), len(r.st.ledger.entries), err)
	}
	var pages corev1.ConfigMapList
	if err := m.ledger.Store.Reader.List(t.Context(), &pages); err != nil || len(pages.Items) < 2 {
		t.Errorf("%d pages (%v)", len(pages.Items), err)
	}
	records, groups, err := m.ledger.Store.All(t.Context())
	if err != nil || len(records) != 1 || len(groups) != 1 || len(records[record.Name].Entries) != len(record.Entries) {
		t.Errorf("a new leader reads %d records of %v (%v)", len(records), groups, err)
	}
}

func (r *rig) progressed(name string) string {
	r.t.Helper()
	r.st.mu.Lock()
	defer r.st.mu.Unlock()
	return r.st.progress(resource(r.t, name).Key(), requester{}).Status
}

// If a quota of ConfigMaps is used up, identities that would need another page are refused by name.
func TestLedgerQuota(t *testing.T) {
	r := newRig(t)
	m := r.controllerOn(limited(1))
	r.placeLong("team", 0, 1200)
	r.attachAll(m)
	if n := len(r.st.ledger.entries); n < 500 || n == 1200 {
		t.Errorf("%d attached", n)
	}
	refused := 0
	for i := range 1200 {
		if r.st.progress(longID(t, i).Key(), requester{}).Reason == reason.LedgerFull.Name() {
			refused++
		}
	}
	if refused+len(r.st.ledger.entries) != 1200 {
		t.Errorf("%d attached, %d refused", len(r.st.ledger.entries), refused)
	}
	if err := m.Healthy(); err != nil {
		t.Errorf("unhealthy because of one namespace's identities: %v", err)
	}
}

// After a write whose outcome is unknown, the ledger is read before the next one.
func TestUnknownWrite(t *testing.T) {
	r := newRig(t)
	lose := true
	api := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := c.Create(ctx, o, opts...); err != nil || !lose {
				return err
			}
			return apierrors.NewTimeoutError("the response is lost", 1)
		},
	})
	m := r.controllerOn(api)
	r.place("web", "red")
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err == nil {
		t.Fatal("no error")
	}
	lose = false
	r.groups.Leave(podNamed("web"))
	r.write(m, r.plan())
	if _, groups, err := m.ledger.Store.All(t.Context()); err != nil || len(groups) > 0 {
		t.Errorf("the ledger still has what was not sent to Azure: %v", err)
	}
}
