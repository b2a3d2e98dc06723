package uninstall_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/uninstall"
)

const subscription = "11111111-2222-3333-4444-555555555555"

// Uninstalls that went wrong. MIC is gone, and the API server of a test has no controllers that
// delete pods and namespaces.
func TestStories(t *testing.T) {
	kube := testenv.Start(t, testenv.WithCRDs).Config
	kube.WarningHandler = rest.NoWarnings{}
	for _, story := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"namespace", namespaceDeleted},
		{"pods first", podsFirst},
		{"living", living},
		{"all", everything},
		{"azure", detaches},
		{"busy azure", busyAzure},
		{"group gone", groupGone},
		{"cut off", cutOff},
		{"leader", leader},
		{"foreign finalizer", foreignFinalizer},
		{"crds", definitionsFirst}, // last: there are none afterward
	} {
		t.Run(story.name, func(t *testing.T) { story.run(t, newWorld(t, kube, strings.ReplaceAll(story.name, " ", "-"))) })
	}
}

// The namespace and everything in it is deleted after MIC is gone, and the finalizers of v1.8.17
// block the deletion.
func namespaceDeleted(_ *testing.T, w *world) {
	w.pod("p")
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	w.assigned("q", v1.StateCreated)
	w.must(w.client.DeleteAllOf(w.t.Context(), &v1.AzureAssignedIdentity{}, client.InNamespace(w.namespace)))
	w.expectAssigned("p-" + w.namespace + "-red")
	w.must(w.run(uninstall.Options{}))
	w.expectAssigned()
}

// Pods were deleted, force-deleted or finished while no MIC ran.
func podsFirst(_ *testing.T, w *world) {
	pod := w.pod("finished")
	pod.Status.Phase = corev1.PodSucceeded
	w.must(w.client.Status().Update(w.t.Context(), pod))
	for _, state := range []string{v1.StateCreated, v1.StateAssigned, v1.StateUnassigned, ""} {
		w.assigned("gone-"+strings.ToLower(state)+"x", state, v1.Finalizer)
	}
	w.assigned("finished", v1.StateAssigned, v1.Finalizer)
	w.assigned("ours", v1.StateAssigned)
	w.must(w.run(uninstall.Options{}))
	w.expectAssigned()
	if plan := w.plan(uninstall.Options{}); !plan.Empty() {
		w.t.Errorf("the plan is not empty afterwards: %+v", plan.Rows())
	}
}

func living(_ *testing.T, w *world) {
	w.pod("p")
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	w.must(w.run(uninstall.Options{}))
	w.expectAssigned("p-" + w.namespace + "-red")
}

func everything(_ *testing.T, w *world) {
	w.pod("p")
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	w.ledger("red")
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID("red"), resourceID("foreign")}})
	w.create(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "record-" + w.namespace}, Data: map[string]string{"type-upgrade-status": "v1.8.17"},
	})
	w.lease(time.Now().Add(time.Hour))
	w.must(w.run(uninstall.Options{All: true, Azure: true}))
	w.expectAssigned()
	w.expectOnAzure("foreign")
	var records corev1.ConfigMapList
	w.must(w.client.List(w.t.Context(), &records, client.InNamespace(w.namespace)))
	var leases coordinationv1.LeaseList
	w.must(w.client.List(w.t.Context(), &leases, client.InNamespace(w.namespace)))
	if n := len(records.Items) + len(leases.Items); n > 0 {
		w.t.Errorf("%d records of MIC are left", n)
	}
}

// Only identities that MIC attached and that no pod needs are detached.
func detaches(_ *testing.T, w *world) {
	w.pod("p")
	w.cloud.SetGroup(w.group, compute.Identities{
		UserAssigned: []string{resourceID("red"), resourceID("blue"), resourceID("foreign")}, SystemAssigned: true,
	})
	w.ledger("red", "blue", "never-came")
	w.must(w.run(uninstall.Options{}))
	w.expectOnAzure("blue", "foreign", "red") // without access to Azure, everything stays, also in the ledger
	w.expectLedger("blue", "never-came", "red")
	w.must(w.run(uninstall.Options{Azure: true}))
	w.expectOnAzure("foreign", "red")
	w.expectLedger("red")
}

func busyAzure(_ *testing.T, w *world) {
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID("red")}})
	w.ledger("red")
	w.cloud.ThrottleNext(time.Second)
	w.must(w.run(uninstall.Options{Azure: true}))
	w.expectOnAzure()
	w.expectLedger()
	if len(w.waited) == 0 || w.waited[0] < 900*time.Millisecond {
		w.t.Errorf("Azure sent Retry-After 1, waited %v", w.waited)
	}
}

// The node and the scale set are deleted.
func groupGone(_ *testing.T, w *world) {
	w.cloud.DeleteGroup(w.group)
	w.ledger("red", "blue")
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	w.must(w.run(uninstall.Options{Azure: true}))
	w.expectLedger()
	w.expectAssigned()
}

// The command is interrupted during an update of Azure, and run again.
func cutOff(t *testing.T, w *world) {
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID("red")}})
	w.ledger("red")
	ctx, interrupt := context.WithCancel(t.Context())
	c := w.cleaner(interrupting{w.cloud, interrupt})
	if err := c.Run(ctx, w.plan(uninstall.Options{Azure: true})); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	w.expectLedger("red")
	w.must(w.run(uninstall.Options{Azure: true}))
	w.expectOnAzure()
	w.expectLedger()
}

// interrupting is a Cloud during whose updates the user presses Ctrl-C.
type interrupting struct {
	uninstall.Cloud
	interrupt func()
}

// Patch is uninstall.Cloud.
func (i interrupting) Patch(ctx context.Context, group compute.Group, attach, detach []string) error {
	i.interrupt()
	return errors.Join(i.Cloud.Patch(ctx, group, attach, detach), ctx.Err())
}

// The command fails while a MIC renews its lock, whatever MIC's clock says, and works once the lock
// has not been renewed for its duration. v1.8.17 has its lock in Endpoints.
func leader(t *testing.T, w *world) {
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	clock := time.Now().Add(-time.Hour) // of the MIC
	w.lease(clock)
	w.onWait = func() {
		clock = clock.Add(2 * time.Second)
		lease := &coordinationv1.Lease{}
		w.must(w.client.Get(t.Context(), client.ObjectKey{Namespace: w.namespace, Name: w.names().Lease}, lease))
		lease.Spec.RenewTime = new(metav1.NewMicroTime(clock))
		w.must(w.client.Update(t.Context(), lease))
	}
	led, ok := errors.AsType[*uninstall.LeaderError](w.run(uninstall.Options{}))
	if !ok || led.Holder != "mic-0" || led.Namespace != w.namespace || led.Kind != "Lease" {
		t.Fatalf("with a leader: %+v", led)
	}
	w.expectAssigned("p-" + w.namespace + "-red")

	old := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: w.names().Lease}} //nolint:staticcheck // v1.8.17's
	record := func() map[string]string {
		return map[string]string{"control-plane.alpha.kubernetes.io/leader": `{"holderIdentity":"old-mic","leaseDurationSeconds":15,` +
			`"acquireTime":"2021-01-01T00:00:00Z","renewTime":"` + clock.UTC().Format(time.RFC3339) + `","leaderTransitions":1}`}
	}
	old.Annotations = record()
	w.create(old)
	w.onWait = func() {
		clock = clock.Add(2 * time.Second)
		old.Annotations = record()
		w.must(w.client.Update(t.Context(), old))
	}
	led, ok = errors.AsType[*uninstall.LeaderError](w.run(uninstall.Options{}))
	if !ok || led.Holder != "old-mic" || led.Kind != "Endpoints" {
		t.Fatalf("with a leader of v1.8.17: %+v", led)
	}
	w.expectAssigned("p-" + w.namespace + "-red")

	w.onWait = func() {}
	w.must(w.run(uninstall.Options{}))
	w.expectAssigned()
	w.must(w.client.Delete(t.Context(), old))
}

// The finalizers of others stay, and are reported.
func foreignFinalizer(t *testing.T, w *world) {
	w.assigned("p", v1.StateAssigned, v1.Finalizer, "example.com/mine")
	err := w.run(uninstall.Options{})
	if err == nil || !strings.Contains(err.Error(), "example.com/mine") {
		t.Errorf("err %v", err)
	}
	list := &v1.AzureAssignedIdentityList{}
	w.must(w.client.List(t.Context(), list, client.InNamespace(w.namespace)))
	for i := range list.Items {
		if !slices.Equal(list.Items[i].Finalizers, []string{"example.com/mine"}) {
			t.Errorf("finalizers %v", list.Items[i].Finalizers)
		}
		list.Items[i].Finalizers = nil
		w.must(w.client.Update(t.Context(), &list.Items[i]))
	}
}

// The CRDs are deleted while there are objects of v1.8.17, and wait for them. Pods still run.
func definitionsFirst(t *testing.T, w *world) {
	w.pod("p")
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	crd.SetName("azureassignedidentities.aadpodidentity.k8s.io")
	w.must(w.client.Delete(t.Context(), crd))
	testenv.Eventually(t, "the server deletes the objects", func() string {
		list := &v1.AzureAssignedIdentityList{}
		if err := w.client.List(t.Context(), list); err != nil || len(list.Items) != 1 || list.Items[0].DeletionTimestamp.IsZero() {
			return fmt.Sprintf("%+v (%v)", list.Items, err)
		}
		return ""
	})
	if rows := w.plan(uninstall.Options{}).Rows(); !slices.ContainsFunc(rows, func(r uninstall.Row) bool { return r.Action == "wait" }) {
		t.Errorf("the plan does not name the waiting definition: %+v", rows)
	}
	w.must(w.run(uninstall.Options{}))
	testenv.Eventually(t, "the definition is deleted", func() string {
		if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(crd), crd); !apierrors.IsNotFound(err) {
			return fmt.Sprintf("got %v", err)
		}
		return ""
	})
	w.must(w.run(uninstall.Options{})) // without the kind, too
}
