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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/observe"
)

// limited is an API server in memory that takes 1 MiB of data in one ConfigMap, as the real one
// does, and no more than quota of them; 0: any number.
func limited(t *testing.T, quota int) client.Client {
	t.Helper()
	check := func(o client.Object) error {
		cm, ok := o.(*corev1.ConfigMap)
		if !ok {
			return nil
		}
		size := 0
		for _, v := range cm.Data {
			size += len(v)
		}
		const most = 1 << 20
		if size > most {
			return apierrors.NewInvalid(schema.GroupKind{Kind: "ConfigMap"}, cm.Name, field.ErrorList{field.TooLong(field.NewPath(""), cm, most)})
		}
		return nil
	}
	return fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := check(o); err != nil {
				return err
			}
			var list corev1.ConfigMapList
			if err := c.List(ctx, &list); err != nil {
				return err
			}
			if quota > 0 && len(list.Items) >= quota {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, o.GetName(), errTest)
			}
			return c.Create(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			if err := check(o); err != nil {
				return err
			}
			return c.Update(ctx, o, opts...)
		},
	}).WithIndex(&corev1.Node{}, NodesByGroup, func(client.Object) []string { return nil }).Build()
}

// longID is the longest resource ID that Azure allows: letters of any script, three bytes each.
func longID(t *testing.T, n int) identity.ResourceID {
	t.Helper()
	id, err := identity.ParseResourceID("/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/" + strings.Repeat("資", 90) +
		"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + fmt.Sprintf("%0128d", n))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// ledgered makes a Reconciler on that API server, whose Azure does all it is asked for.
func (r *rig) ledgered(api client.Client) *Reconciler {
	r.st.saved = map[string]Entry{}
	return New(Parts{
		Client: api, Groups: r.groups, Metrics: observe.NewMetrics(nil),
		Ledger: Ledger{Reader: api, Writer: api, Namespace: "kube-system", Name: "ledger"},
	}, Settings{})
}

// attachAll makes passes, as Reconcile does, until nothing is left to attach now.
func (r *rig) attachAll(m *Reconciler) {
	r.t.Helper()
	for range 200 {
		p := &pass{group: r.group, state: r.st, populated: true}
		plan, refused := m.admit(r.t.Context(), p, r.plan())
		if err := m.record(r.t.Context(), r.group, r.st, plan); err != nil {
			if m.refusedPage(r.t.Context(), p, plan, err) {
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

// One namespace that needs thousands of identities gets some of them, each of the others is refused
// by name, and another namespace still gets its own.
func TestLedgerRoomIsShared(t *testing.T) {
	r := newRig(t)
	m := r.ledgered(limited(t, 0))
	const many = 4000
	r.placeLong("greedy", 0, many)
	r.attachAll(m)
	attached := len(r.st.ledger)
	if attached < 1585 || attached == many {
		t.Errorf("%d of %d identities of one namespace attached", attached, many)
	}
	for i := range many {
		key := longID(t, i).Key()
		state := r.st.progress(key, user{}).State
		if _, ok := r.st.ledger[key]; !ok && (state.Reason != assignment.ReasonLedgerFull || !strings.Contains(state.Message, "no room")) {
			t.Fatalf("identity %d is neither attached nor refused by name: %+v", i, state)
		}
	}
	if r.place("web", "victim"); r.progressed("victim") != v1.StateCreated {
		t.Fatal("there before it was attached")
	}
	r.attachAll(m)
	if r.progressed("victim") != v1.StateAssigned {
		t.Error("another namespace gets nothing any more")
	}
	record, err := m.ledger.Load(t.Context(), r.group)
	if err != nil || !maps.Equal(record.Entries, r.st.ledger) || len(record.pages) < 2 {
		t.Errorf("%d entries on %d pages, want %d (%v)", len(record.Entries), len(record.pages), len(r.st.ledger), err)
	}
	records, groups, err := m.ledger.All(t.Context())
	if err != nil || len(records) != 1 || len(groups) != 1 || len(records[record.Name].Entries) != len(record.Entries) {
		t.Errorf("a new leader reads %d records of %v (%v)", len(records), groups, err)
	}
}

func (r *rig) progressed(name string) string {
	r.t.Helper()
	r.st.mu.Lock()
	defer r.st.mu.Unlock()
	return r.st.progress(resource(r.t, name).Key(), user{}).Status
}

// A quota of ConfigMaps that is used up refuses what would need another page, by name.
func TestLedgerQuota(t *testing.T) {
	r := newRig(t)
	m := r.ledgered(limited(t, 1))
	r.placeLong("team", 0, 1200)
	r.attachAll(m)
	if n := len(r.st.ledger); n < 500 || n == 1200 {
		t.Errorf("%d attached", n)
	}
	refused := 0
	for i := range 1200 {
		if r.st.progress(longID(t, i).Key(), user{}).Reason == assignment.ReasonLedgerFull {
			refused++
		}
	}
	if refused+len(r.st.ledger) != 1200 {
		t.Errorf("%d attached, %d refused", len(r.st.ledger), refused)
	}
	if err := m.Healthy(); err != nil {
		t.Errorf("not ready because of one namespace's identities: %v", err)
	}
}

// Pages keep their entries, are read wherever a write ended, and go from the last one.
func TestPages(t *testing.T) {
	r := newRig(t)
	api := limited(t, 0)
	ledger := Ledger{Reader: api, Writer: api, Namespace: "kube-system", Name: "ledger"}
	names := func() (names []string) {
		var list corev1.ConfigMapList
		if err := api.List(t.Context(), &list); err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			names = append(names, strings.TrimPrefix(list.Items[i].Name, ledger.nameOf(r.group)))
		}
		return names
	}
	entries := map[string]Entry{}
	for i := range 2000 {
		entries[longID(t, i).Key()] = Entry{ResourceID: longID(t, i).String()}
	}
	save := func(want ...string) {
		t.Helper()
		record, err := ledger.Load(t.Context(), r.group)
		if err != nil {
			t.Fatal(err)
		}
		if record, err = record.Save(t.Context(), api, entries); err != nil || !maps.Equal(record.Entries, entries) {
			t.Fatalf("%d entries stored, want %d (%v)", len(record.Entries), len(entries), err)
		}
		if again, err := ledger.Load(t.Context(), r.group); err != nil || !maps.Equal(again.Entries, entries) {
			t.Fatalf("%d entries read, want %d (%v)", len(again.Entries), len(entries), err)
		}
		if got := names(); !slices.Equal(got, want) {
			t.Errorf("pages %q, want %q", got, want)
		}
	}
	save("", "-2", "-3")
	version := func(name string) string {
		var cm corev1.ConfigMap
		if err := api.Get(t.Context(), client.ObjectKey{Namespace: "kube-system", Name: ledger.nameOf(r.group) + name}, &cm); err != nil {
			t.Fatal(err)
		}
		return cm.ResourceVersion
	}
	first, third := version(""), version("-3")
	entries["new"] = Entry{ResourceID: "new"}
	save("", "-2", "-3")
	if version("") == first || version("-3") != third {
		t.Error("writes other pages than the one that changed")
	}
	for i := range 1000 { // those of the first page and more
		delete(entries, longID(t, i).Key())
	}
	delete(entries, "new")
	save("", "-2", "-3")
	for i := range 1900 {
		delete(entries, longID(t, i).Key())
	}
	save("", "-2", "-3")
	clear(entries)
	save()
}

// A ledger of an older release is one page, which may be larger than a page is now.
func TestOldPage(t *testing.T) {
	r := newRig(t)
	api := limited(t, 0)
	ledger := Ledger{Reader: api, Writer: api, Namespace: "kube-system", Name: "ledger"}
	p := page{number: 1, entries: map[string]Entry{}}
	for i := range 1500 {
		p.entries[longID(t, i).Key()] = Entry{ResourceID: longID(t, i).String()}
	}
	cm, err := ledger.book(r.group).document(p)
	if err != nil {
		t.Fatal(err)
	}
	cm.Data["identities"] = strings.ReplaceAll(cm.Data["identities"], "\n", "")
	if err := api.Create(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	record, err := ledger.Load(t.Context(), r.group)
	if err != nil || !maps.Equal(record.Entries, p.entries) {
		t.Fatalf("%d entries, want %d (%v)", len(record.Entries), len(p.entries), err)
	}
	entries := maps.Clone(p.entries)
	entries["new"] = Entry{ResourceID: "new"}
	record, err = record.Save(t.Context(), api, entries)
	if err != nil || len(record.pages) != 2 || len(record.pages[1].entries) != 1 {
		t.Errorf("%d pages (%v)", len(record.pages), err)
	}
}

// A write whose outcome is unknown is looked up before the next one.
func TestUnknownWrite(t *testing.T) {
	r := newRig(t)
	lose := true
	api := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := c.Create(ctx, o, opts...); err != nil || !lose {
				return err
			}
			return apierrors.NewTimeoutError("the answer is lost", 1)
		},
	})
	m := r.ledgered(api)
	r.place("web", "red")
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err == nil {
		t.Fatal("no error")
	}
	lose = false
	r.groups.Leave(podNamed("web"))
	if err := m.record(t.Context(), r.group, r.st, r.plan()); err != nil {
		t.Fatal(err)
	}
	err := api.Get(t.Context(), client.ObjectKey{Namespace: "kube-system", Name: m.ledger.nameOf(r.group)}, &corev1.ConfigMap{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the ledger still has what nothing was asked for: %v", err)
	}
}

func TestPageName(t *testing.T) {
	for name, want := range map[string]struct {
		first  string
		number int
	}{
		"aad-pod-identity-config-0123456789":    {"aad-pod-identity-config-0123456789", 1},
		"aad-pod-identity-config-0123456789-12": {"aad-pod-identity-config-0123456789", 12},
		"ledger-2":                              {"ledger-2", 1},
	} {
		if first, number := pageName(name); first != want.first || number != want.number {
			t.Errorf("%s: %s, %d", name, first, number)
		}
	}
	ledger := Ledger{Namespace: "n", Name: "ledger"}
	group := compute.Group{Kind: compute.VM, SubscriptionID: "s", ResourceGroup: "rg", Name: "vm"}
	records := Records([]corev1.ConfigMap{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: ledger.book(group).nameOf(2)}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: ledger.book(group).nameOf(1)}},
	})
	if len(records) != 1 || records[0].Name != ledger.nameOf(group) || records[0].Damaged == nil || len(records[0].pages) != 2 {
		t.Errorf("%+v", records)
	}
}
