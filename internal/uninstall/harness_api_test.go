package uninstall_test

import (
	"context"
	"fmt"
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
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/uninstall"
)

// world is a namespace with a node of a scale set.
type world struct {
	t         *testing.T
	client    client.Client
	cloud     *computetest.Fake
	group     compute.Group
	namespace string

	mu     sync.Mutex
	passed time.Duration // on a clock that advances only while the guard waits
	onWait func()        // called for each of these waits
	waited []time.Duration
}

func newWorld(t *testing.T, kube *rest.Config, name string) *world {
	t.Helper()
	c := testenv.Client(t, kube, scheme.AddToScheme, v1.AddToScheme)
	w := &world{
		t: t, client: c, cloud: computetest.NewFake(), namespace: "ns-" + name, onWait: func() {},
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
		w.t = t
		c := w.cleaner(w.cloud)
		w.must(c.Run(context.Background(), w.planAt(context.Background(), uninstall.Options{All: true, Azure: true})))
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
	testenv.Create(w.t, w.client, o)
}

func (w *world) names() uninstall.Names {
	return uninstall.Names{Namespace: w.namespace, Lease: "mic-" + w.namespace, ConfigMap: "record-" + w.namespace}
}

func (w *world) plan(o uninstall.Options) uninstall.Plan {
	w.t.Helper()
	return w.planAt(w.t.Context(), o)
}

func (w *world) planAt(ctx context.Context, o uninstall.Options) uninstall.Plan {
	w.t.Helper()
	state, err := uninstall.Read(ctx, w.client, w.names())
	w.must(err)
	return uninstall.For(state, o)
}

func (w *world) cleaner(cloud uninstall.Cloud) *uninstall.Cleaner {
	return &uninstall.Cleaner{
		Client: w.client, Cloud: cloud, Done: func(uninstall.Row) {},
		Guard: w.leaders().Check,
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

// leaders returns Leaders whose waits take no time.
func (w *world) leaders() *uninstall.Leaders {
	return &uninstall.Leaders{
		Reader: w.client, Lease: w.names().Lease,
		Now: func() time.Time { return time.Unix(0, 0).Add(w.passed) },
		Wait: func(_ context.Context, d time.Duration) error {
			w.passed += d
			w.onWait()
			return nil
		},
	}
}

func (w *world) run(o uninstall.Options) error {
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

// assigned creates an assigned identity; those of v1.8.17 have a finalizer.
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
			Namespace: w.namespace, Name: "ledger", Labels: map[string]string{ledger.ManagedByLabel: ledger.ManagedBy},
		},
		Data: map[string]string{"group": fmt.Sprintf(`{"kind":"vmss","subscriptionID":%q,"resourceGroup":"rg","name":%q}`, subscription, w.group.Name)},
	}
	var entries []ledger.Entry
	for _, name := range names {
		entries = append(entries, ledger.Entry{ResourceID: resourceID(name)})
	}
	w.must(ledger.SetEntries(cm, entries))
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
	_, entries, err := ledger.Parse(&cm)
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
