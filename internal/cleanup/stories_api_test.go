package cleanup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/cleanup"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/attachment"
)

const subscription = "11111111-2222-3333-4444-555555555555"

// TestStories are uninstalls that went wrong. Nobody else works on the cluster: MIC
// is gone, and so, in a test's API server, is what collects pods and namespaces.
func TestStories(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("needs an API server: run make test-api")
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd")}, ErrorIfCRDPathMissing: true}
	kube, err := env.Start()
	if err != nil {
		t.Fatalf("start the API server: %v", err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stop the API server: %v", err)
		}
	})
	kube.WarningHandler = rest.NoWarnings{}
	for _, story := range []struct {
		name string
		tell func(*testing.T, *world)
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
		{"crds", definitionsFirst}, // last: there are none afterwards
	} {
		t.Run(story.name, func(t *testing.T) { story.tell(t, newWorld(t, kube, strings.ReplaceAll(story.name, " ", "-"))) })
	}
}

// namespaceDeleted: MIC is gone, then the namespace and all in it are deleted, the
// objects of v1.8.17 stuck on its finalizer.
func namespaceDeleted(_ *testing.T, w *world) {
	w.pod("p")
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	w.assigned("q", v1.StateCreated)
	w.must(w.client.DeleteAllOf(w.t.Context(), &v1.AzureAssignedIdentity{}, client.InNamespace(w.namespace)))
	w.expectAssigned("p-" + w.namespace + "-red")
	w.must(w.run(cleanup.Options{}))
	w.expectAssigned()
}

// podsFirst: pods went while nobody looked: deleted, force-deleted, finished.
func podsFirst(_ *testing.T, w *world) {
	pod := w.pod("finished")
	pod.Status.Phase = corev1.PodSucceeded
	w.must(w.client.Status().Update(w.t.Context(), pod))
	for _, state := range []string{v1.StateCreated, v1.StateAssigned, v1.StateUnassigned, ""} {
		w.assigned("gone-"+strings.ToLower(state)+"x", state, v1.Finalizer)
	}
	w.assigned("finished", v1.StateAssigned, v1.Finalizer)
	w.assigned("ours", v1.StateAssigned)
	w.must(w.run(cleanup.Options{}))
	w.expectAssigned()
	if plan := w.plan(cleanup.Options{}); !plan.Empty() {
		w.t.Errorf("there is more to do: %+v", plan.Rows())
	}
}

func living(_ *testing.T, w *world) {
	w.pod("p")
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	w.must(w.run(cleanup.Options{}))
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
	w.lease(time.Now().Add(-time.Hour))
	w.must(w.run(cleanup.Options{All: true, Azure: true}))
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

// detaches: of what is on the scale set, only what MIC attached and no pod needs goes.
func detaches(_ *testing.T, w *world) {
	w.pod("p")
	w.cloud.SetGroup(w.group, compute.Identities{
		UserAssigned: []string{resourceID("red"), resourceID("blue"), resourceID("foreign")}, SystemAssigned: true,
	})
	w.ledger("red", "blue", "never-came")
	w.must(w.run(cleanup.Options{}))
	w.expectOnAzure("blue", "foreign", "red") // no way to Azure: all stays, and is remembered
	w.expectLedger("blue", "never-came", "red")
	w.must(w.run(cleanup.Options{Azure: true}))
	w.expectOnAzure("foreign", "red")
	w.expectLedger("red")
}

func busyAzure(_ *testing.T, w *world) {
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID("red")}})
	w.ledger("red")
	w.cloud.ThrottleNext(time.Second)
	w.must(w.run(cleanup.Options{Azure: true}))
	w.expectOnAzure()
	w.expectLedger()
	if len(w.waited) == 0 || w.waited[0] < 900*time.Millisecond {
		w.t.Errorf("Azure asked for a second, waited %v", w.waited)
	}
}

// groupGone: node and scale set are deleted.
func groupGone(_ *testing.T, w *world) {
	w.cloud.DeleteGroup(w.group)
	w.ledger("red", "blue")
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	w.must(w.run(cleanup.Options{Azure: true}))
	w.expectLedger()
	w.expectAssigned()
}

// cutOff: interrupted in the middle of Azure's work, and called again.
func cutOff(t *testing.T, w *world) {
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID("red")}})
	w.ledger("red")
	ctx, interrupt := context.WithCancel(t.Context())
	c := w.cleaner(interrupting{w.cloud, interrupt})
	if err := c.Run(ctx, w.plan(cleanup.Options{Azure: true})); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	w.expectLedger("red")
	w.must(w.run(cleanup.Options{Azure: true}))
	w.expectOnAzure()
	w.expectLedger()
}

// interrupting is a user who presses Ctrl-C when the update has been sent.
type interrupting struct {
	cleanup.Cloud
	interrupt func()
}

// Patch is cleanup.Cloud.
func (i interrupting) Patch(ctx context.Context, group compute.Group, attach, detach []string) error {
	i.interrupt()
	return errors.Join(i.Cloud.Patch(ctx, group, attach, detach), ctx.Err())
}

// leader: while a MIC leads, nothing happens; when its time has run out, it does.
func leader(t *testing.T, w *world) {
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	w.lease(time.Now())
	led, ok := errors.AsType[*cleanup.LeaderError](w.run(cleanup.Options{}))
	if !ok || led.Holder != "mic-0" || led.Namespace != w.namespace {
		t.Fatalf("with a leader: %+v", led)
	}
	w.expectAssigned("p-" + w.namespace + "-red")
	w.now = func() time.Time { return time.Now().Add(16 * time.Second) }
	w.must(w.run(cleanup.Options{}))
	w.expectAssigned()
}

// foreignFinalizer: what somebody else holds is his to let go, and is told.
func foreignFinalizer(t *testing.T, w *world) {
	w.assigned("p", v1.StateAssigned, v1.Finalizer, "example.com/mine")
	err := w.run(cleanup.Options{})
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

// definitionsFirst: the CRDs are deleted while objects of v1.8.17 are there, and wait
// for them; pods still run.
func definitionsFirst(t *testing.T, w *world) {
	w.pod("p")
	w.assigned("p", v1.StateAssigned, v1.Finalizer)
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	crd.SetName("azureassignedidentities.aadpodidentity.k8s.io")
	w.must(w.client.Delete(t.Context(), crd))
	w.eventually("the server deletes the objects", func(ctx context.Context) bool {
		list := &v1.AzureAssignedIdentityList{}
		return w.client.List(ctx, list) == nil && len(list.Items) == 1 && !list.Items[0].DeletionTimestamp.IsZero()
	})
	if rows := w.plan(cleanup.Options{}).Rows(); !slices.ContainsFunc(rows, func(r cleanup.Row) bool { return r.Action == "wait" }) {
		t.Errorf("the plan does not name the waiting definition: %+v", rows)
	}
	w.must(w.run(cleanup.Options{}))
	w.eventually("the definition goes", func(ctx context.Context) bool {
		return apierrors.IsNotFound(w.client.Get(ctx, client.ObjectKeyFromObject(crd), crd))
	})
	w.must(w.run(cleanup.Options{})) // without the kind, too
}

// world is a namespace with a node of a scale set.
type world struct {
	t         *testing.T
	client    client.Client
	cloud     *compute.Fake
	group     compute.Group
	namespace string
	now       func() time.Time

	mu     sync.Mutex
	waited []time.Duration
}

func newWorld(t *testing.T, kube *rest.Config, name string) *world {
	t.Helper()
	scheme, err := cleanup.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(kube, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, client: c, cloud: compute.NewFake(), namespace: "ns-" + name, now: time.Now,
		group: compute.Group{Kind: compute.VMSS, SubscriptionID: subscription, ResourceGroup: "rg", Name: "vmss-" + name},
	}
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}})
	w.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-" + name}, Spec: corev1.NodeSpec{ProviderID: fmt.Sprintf(
		"azure:///subscriptions/%s/resourceGroups/RG/providers/Microsoft.Compute/virtualMachineScaleSets/%s/virtualMachines/0", subscription, w.group.Name)}})
	w.create(&v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "red"},
		Spec:       v1.AzureIdentitySpec{ResourceID: resourceID("red"), ClientID: subscription},
	})
	w.create(&v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "red"},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: "red", Selector: w.namespace},
	})
	t.Cleanup(func() {
		w.t, w.now = t, func() time.Time { return time.Now().Add(time.Hour) }
		c := w.cleaner(w.cloud)
		w.must(c.Run(context.Background(), w.planAt(context.Background(), cleanup.Options{All: true, Azure: true})))
	})
	return w
}

func resourceID(name string) string {
	return "/subscriptions/" + subscription + "/resourcegroups/ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	w.must(w.client.Create(w.t.Context(), o))
}

func (w *world) names() cleanup.Names {
	return cleanup.Names{Namespace: w.namespace, Lease: "mic-" + w.namespace, ConfigMap: "record-" + w.namespace}
}

func (w *world) plan(o cleanup.Options) cleanup.Plan {
	w.t.Helper()
	return w.planAt(w.t.Context(), o)
}

func (w *world) planAt(ctx context.Context, o cleanup.Options) cleanup.Plan {
	w.t.Helper()
	state, err := cleanup.Read(ctx, w.client, w.names())
	w.must(err)
	return cleanup.For(state, o)
}

func (w *world) cleaner(cloud cleanup.Cloud) *cleanup.Cleaner {
	return &cleanup.Cleaner{
		Client: w.client, Cloud: cloud, Done: func(cleanup.Row) {},
		Guard: func(ctx context.Context) error { return cleanup.CheckLeader(ctx, w.client, w.names(), w.now()) },
		Wait: func(ctx context.Context, d time.Duration) error {
			w.mu.Lock()
			w.waited = append(w.waited, d)
			w.mu.Unlock()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(d):
				return nil
			}
		},
	}
}

func (w *world) run(o cleanup.Options) error {
	w.t.Helper()
	return w.cleaner(w.cloud).Run(w.t.Context(), w.plan(o))
}

func (w *world) pod(name string) *corev1.Pod {
	w.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name, Labels: map[string]string{v1.BindingLabel: w.namespace}},
		Spec: corev1.PodSpec{
			NodeName:   strings.Replace(w.namespace, "ns-", "node-", 1),
			Containers: []corev1.Container{{Name: "c", Image: "i"}},
		},
	}
	w.create(pod)
	return pod
}

// assigned is an assigned identity; with its finalizer, as v1.8.17 made them.
func (w *world) assigned(pod, state string, finalizers ...string) {
	w.t.Helper()
	w.create(&v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: pod + "-" + w.namespace + "-red", Finalizers: finalizers},
		Spec:       v1.AzureAssignedIdentitySpec{Pod: pod, PodNamespace: w.namespace, NodeName: "node"},
		Status:     v1.AzureAssignedIdentityStatus{Status: state},
	})
}

func (w *world) ledger(names ...string) {
	w.t.Helper()
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.namespace, Name: "ledger", Labels: map[string]string{attachment.ManagedByLabel: attachment.ManagedBy},
		},
		Data: map[string]string{"group": fmt.Sprintf(`{"kind":"vmss","subscriptionID":%q,"resourceGroup":"rg","name":%q}`, subscription, w.group.Name)},
	}
	var entries []attachment.Entry
	for _, name := range names {
		entries = append(entries, attachment.Entry{ResourceID: resourceID(name)})
	}
	w.must(attachment.SetEntries(cm, entries))
	w.create(cm)
}

func (w *world) lease(renewed time.Time) {
	w.t.Helper()
	w.create(&coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "mic-" + w.namespace},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: new("mic-0"), LeaseDurationSeconds: new(int32(15)), RenewTime: new(metav1.NewMicroTime(renewed)),
		},
	})
}

func (w *world) expectAssigned(names ...string) {
	w.t.Helper()
	list := &v1.AzureAssignedIdentityList{}
	w.must(w.client.List(w.t.Context(), list, client.InNamespace(w.namespace)))
	got := []string{}
	for i := range list.Items {
		got = append(got, list.Items[i].Name)
	}
	if !slices.Equal(got, append([]string{}, names...)) {
		w.t.Errorf("assigned identities %v, want %v", got, names)
	}
}

func (w *world) expectOnAzure(names ...string) {
	w.t.Helper()
	have, err := w.cloud.Get(w.t.Context(), w.group)
	w.must(err)
	w.expectNames("on Azure", have.UserAssigned, names)
}

func (w *world) expectLedger(names ...string) {
	w.t.Helper()
	var cm corev1.ConfigMap
	err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.namespace, Name: "ledger"}, &cm)
	if apierrors.IsNotFound(err) && len(names) == 0 {
		return
	}
	w.must(err)
	_, entries, err := attachment.ReadLedger(&cm)
	w.must(err)
	var ids []string
	for _, entry := range entries {
		ids = append(ids, entry.ResourceID)
	}
	w.expectNames("in the ledger", ids, names)
}

func (w *world) expectNames(where string, ids, want []string) {
	w.t.Helper()
	got := []string{}
	for _, id := range ids {
		got = append(got, filepath.Base(id))
	}
	slices.Sort(got)
	if !slices.Equal(got, append([]string{}, want...)) {
		w.t.Errorf("%s: %v, want %v", where, got, want)
	}
}

func (w *world) eventually(what string, f func(context.Context) bool) {
	w.t.Helper()
	err := wait.PollUntilContextTimeout(w.t.Context(), 20*time.Millisecond, time.Minute, true,
		func(ctx context.Context) (bool, error) { return f(ctx), nil })
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}
