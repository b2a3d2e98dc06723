package attachment

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/ledger"
)

// A group whose last node went while no MIC ran is woken when the ledgers are read: there is no
// event for it.
func TestUnpopulatedWakes(t *testing.T) {
	r := newRig(t)
	here := compute.Group{Kind: compute.VMSS, SubscriptionID: "s", ResourceGroup: "rg", Name: "here"}
	gone := compute.Group{Kind: compute.VMSS, SubscriptionID: "s", ResourceGroup: "rg", Name: "gone"}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"group": here.Name}}}
	api := fake.NewClientBuilder().WithObjects(node).WithIndex(&corev1.Node{}, lookup.NodesByGroup, func(client.Object) []string {
		return []string{here.ResourceID()}
	}).Build()
	store := ledger.Store{Reader: api, Writer: api, Namespace: "kube-system", Name: "ledger"}
	for _, group := range []compute.Group{here, gone} {
		record, err := store.Load(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := record.Save(t.Context(), api, map[string]ledger.Entry{"a": {ResourceID: prefix + "a"}}); err != nil {
			t.Fatal(err)
		}
	}
	m := NewController(Parts{Client: api, Groups: r.groups, Ledger: store}, Settings{})
	if err := m.load(t.Context(), here, r.groups.of(here)); err != nil {
		t.Fatal(err)
	}
	if n := r.queue.Len(); n != 1 {
		t.Fatalf("%d groups woken, want the one without nodes", n)
	}
	if got, _ := r.queue.Get(); got != gone {
		t.Errorf("woken: %v, want %v", got, gone)
	}
}

// If the ledger cannot be written after the last update of a group without nodes, the group is
// forgotten only once it has been written.
func TestUnpopulatedUnwritten(t *testing.T) {
	r := newRig(t)
	fails := false
	m := r.controllerOf(&fails)
	r.place("web", "red")
	r.carryOut(m, nil)
	r.groups.Leave(podNamed("web"))
	plan := r.plan()
	if len(plan.Detach) != 1 {
		t.Fatalf("plan %+v", plan)
	}
	fails = true
	if _, err := m.update(t.Context(), &pass{group: r.group, state: r.st}, plan); err == nil {
		t.Fatal("no error although the ledger could not be written")
	}
	if _, err := m.Reconcile(t.Context(), r.group); err == nil {
		t.Error("forgets the group although its ledger could not be written")
	}
	fails = false
	if _, err := m.Reconcile(t.Context(), r.group); err != nil {
		t.Error(err)
	}
	if entries := r.stored(m); len(entries) > 0 {
		t.Errorf("left in the ledger: %v", entries)
	}
	if r.groups.states[r.group] != nil {
		t.Error("the group is not forgotten")
	}
}
