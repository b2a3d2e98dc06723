package drift

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/podid-io/podid/internal/compute"
)

type recorder struct {
	mu       sync.Mutex
	kicked   []string
	ledgered []compute.Group
	err      error
}

func (r *recorder) Kick(group compute.Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kicked = append(r.kicked, group.Name)
}

func (r *recorder) Ledgered(context.Context) ([]compute.Group, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ledgered, r.err
}

func (r *recorder) unreadable(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ledgered, r.err = nil, err
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.kicked
	r.kicked = nil
	slices.Sort(taken)
	return taken
}

func node(name, providerID string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: providerID}}
}

func TestDrift(t *testing.T) {
	const compute1 = "azure:///subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/"
	reader := fake.NewClientBuilder().WithObjects(
		node("a", compute1+"virtualMachineScaleSets/pool/virtualMachines/0"),
		node("b", compute1+"virtualMachineScaleSets/pool/virtualMachines/1"),
		node("c", compute1+"virtualMachines/vm"),
		node("d", "kind://docker/kind/kind-control-plane"),
	).Build()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		to := &recorder{ledgered: []compute.Group{{Kind: compute.VM, Name: "gone"}, {Kind: compute.VM, SubscriptionID: "s", ResourceGroup: "rg", Name: "vm"}}}
		drift := &Drift{Reader: reader, Attachment: to, Interval: time.Minute}
		ended := make(chan error)
		go func() { ended <- drift.Start(ctx) }()

		synctest.Wait()
		if got := to.take(); !slices.Equal(got, []string{"gone", "pool", "vm"}) {
			t.Errorf("at once: %v", got)
		}
		to.unreadable(errors.New("away"))
		for range 2 {
			<-time.After(time.Minute)
			synctest.Wait()
			if got := to.take(); !slices.Equal(got, []string{"pool", "vm"}) {
				t.Errorf("after a minute: %v", got)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
