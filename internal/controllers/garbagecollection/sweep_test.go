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
)

type recorder struct {
	mu     sync.Mutex
	kicked []string
	counts map[string]int
}

func (r *recorder) Kick(pod types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kicked = append(r.kicked, pod.Name)
}

func (r *recorder) AssignedIdentities(state string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[state] = n
}

func pod(name string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name}, Status: corev1.PodStatus{Phase: phase}}
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
	objects := []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}},
		pod("fine", corev1.PodRunning), assigned("fine", "here", v1.StateAssigned),
		pod("done", corev1.PodSucceeded), assigned("done", "here", v1.StateAssigned),
		pod("moved", corev1.PodRunning), assigned("moved", "gone", v1.StateCreated),
		assigned("nobody", "here", ""),
	}
	reader := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		to := &recorder{counts: map[string]int{}}
		sweep := &Sweep{Reader: reader, Pods: to, Metrics: to, Interval: time.Hour}
		ended := make(chan error)
		go func() { ended <- sweep.Start(ctx) }()
		<-time.After(time.Hour + time.Second)
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		slices.Sort(to.kicked)
		if !slices.Equal(to.kicked, []string{"done", "moved", "nobody"}) {
			t.Errorf("removes %v", to.kicked)
		}
		if want := map[string]int{v1.StateAssigned: 2, v1.StateCreated: 2}; !maps.Equal(to.counts, want) {
			t.Errorf("counts %v", to.counts)
		}
	})
}
