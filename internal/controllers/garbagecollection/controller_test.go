package garbagecollection

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/lookup"
)

type recorder struct {
	mu     sync.Mutex
	queued []string
	counts map[string]int
}

func (r *recorder) Add(pods ...types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pod := range pods {
		r.queued = append(r.queued, pod.Name)
	}
}

func (r *recorder) AssignedIdentities(state string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[state] = n
}

func (r *recorder) Nodes(kind string, n int) { r.AssignedIdentities(kind, n) }

func pod(name, node string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase},
	}
}

func node(name, providerID string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: providerID}}
}

func assigned(pod, node, state string) *v1.AzureAssignedIdentity {
	return &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: pod + "-x"},
		Spec:       v1.AzureAssignedIdentitySpec{Pod: pod, PodNamespace: "team", NodeName: node},
		Status:     v1.AzureAssignedIdentityStatus{Status: state},
	}
}

func TestSweep(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	held := assigned("held", "here", v1.StateAssigned)
	held.Finalizers, held.DeletionTimestamp = []string{v1.Finalizer}, new(metav1.Now())
	const machines = "azure:///subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/"
	objects := []client.Object{
		node("here", machines+"virtualMachines/vm"),
		node("pool-0", machines+"virtualMachineScaleSets/pool/virtualMachines/0"),
		node("pool-1", "AZURE:///SUBSCRIPTIONS/S/RESOURCEGROUPS/RG/PROVIDERS/MICROSOFT.COMPUTE/VIRTUALMACHINESCALESETS/POOL/VIRTUALMACHINES/1"),
		node("bare", ""), node("ec2", "aws:///eu-west-1a/i-0123456789"), node("arc", machines+"disks/d"),
		pod("fine", "here", corev1.PodRunning), assigned("fine", "here", v1.StateAssigned),
		pod("done", "here", corev1.PodSucceeded), assigned("done", "here", v1.StateAssigned),
		pod("orphan", "gone", corev1.PodRunning), assigned("orphan", "gone", v1.StateCreated),
		pod("moved", "pool-0", corev1.PodRunning), assigned("moved", "here", v1.StateCreated),
		pod("held", "here", corev1.PodRunning), held,
		assigned("nobody", "here", ""),
	}
	reader := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithIndex(&v1.AzureAssignedIdentity{}, lookup.AssignedByNode, func(o client.Object) []string {
			return []string{o.(*v1.AzureAssignedIdentity).Spec.NodeName}
		}).Build()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		to := &recorder{counts: map[string]int{}}
		sweep := NewController(reader, to, to, time.Hour)
		ended := make(chan error)
		go func() { ended <- sweep.Start(ctx) }()
		<-time.After(time.Hour + time.Second)
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		slices.Sort(to.queued)
		if !slices.Equal(to.queued, []string{"done", "held", "moved", "nobody", "orphan"}) {
			t.Errorf("removes %v", to.queued)
		}
		if want := map[string]int{v1.StateAssigned: 3, v1.StateCreated: 2, "vm": 1, "vmss": 2, "other": 3}; !maps.Equal(to.counts, want) {
			t.Errorf("counts %v", to.counts)
		}
	})
}
