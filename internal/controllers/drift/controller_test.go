package drift

import (
	"context"
	"errors"
	"fmt"
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
	compared []string
	ledgered []compute.Group
	err      error
	slow     time.Duration // how long a comparison takes
}

func (r *recorder) quick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slow = 0
}

func (r *recorder) Compare(group compute.Group) {
	r.mu.Lock()
	r.compared = append(r.compared, group.Name)
	slow := r.slow
	r.mu.Unlock()
	<-time.After(slow)
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
	taken := r.compared
	r.compared = nil
	slices.Sort(taken)
	return taken
}

func node(name, providerID string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: providerID}}
}

// start runs a controller until stop is called.
func start(t *testing.T, c *Controller) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Start(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestDrift(t *testing.T) {
	const compute1 = "azure:///subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/"
	reader := fake.NewClientBuilder().WithObjects(
		node("a", compute1+"virtualMachineScaleSets/pool/virtualMachines/0"),
		node("b", compute1+"virtualMachineScaleSets/POOL/virtualMachines/1"),
		node("c", compute1+"virtualMachines/vm"),
		node("d", "kind://docker/kind/kind-control-plane"),
	).Build()
	synctest.Test(t, func(t *testing.T) {
		to := &recorder{ledgered: []compute.Group{{Kind: compute.VM, Name: "gone"}, {Kind: compute.VM, SubscriptionID: "s", ResourceGroup: "rg", Name: "vm"}}}
		stop := start(t, NewController(reader, to, time.Minute))

		<-time.After(time.Minute - time.Millisecond)
		if got := to.take(); !slices.Equal(got, []string{"gone", "pool", "vm"}) {
			t.Errorf("in the first minute: %v", got)
		}
		to.unreadable(errors.New("away"))
		<-time.After(time.Millisecond)
		synctest.Wait()
		to.take()
		for range 2 {
			<-time.After(time.Minute)
			synctest.Wait()
			if got := to.take(); !slices.Equal(got, []string{"pool", "vm"}) {
				t.Errorf("in a minute: %v", got)
			}
		}
		stop()
	})
}

// A thousand VMs are compared evenly, and no faster than a twentieth of Azure's limit of reads
// allows: the test checks every second of three rounds.
func TestSpread(t *testing.T) {
	const vms, interval, round = 1000, 3 * time.Minute, 1000 * time.Second
	var groups []compute.Group
	for i := range vms {
		groups = append(groups, compute.Group{Kind: compute.VM, SubscriptionID: "s", ResourceGroup: "rg", Name: fmt.Sprintf("vm-%d", i)})
	}
	reader := fake.NewClientBuilder().Build()
	synctest.Test(t, func(t *testing.T) {
		to := &recorder{ledgered: groups}
		stop := start(t, NewController(reader, to, interval))
		began := time.Now()
		last := map[string]time.Time{}
		for time.Since(began) < 3*round {
			<-time.After(time.Second)
			got := to.take()
			// One a second, one more or less because of the jitter and where the second begins.
			if len(got) > 3 {
				t.Fatalf("%d groups in the second after %v", len(got), time.Since(began))
			}
			for _, name := range got {
				if before, ok := last[name]; ok && (time.Since(before) < round-2*time.Second || time.Since(before) > round+2*time.Second) {
					t.Fatalf("%s after %v", name, time.Since(before))
				}
				last[name] = time.Now()
			}
		}
		if len(last) != vms {
			t.Errorf("%d groups of %d", len(last), vms)
		}
		stop()
	})
}

func TestTurns(t *testing.T) {
	a := compute.Group{Kind: compute.VM, SubscriptionID: "s", ResourceGroup: "rg", Name: "a"}
	b := compute.Group{Kind: compute.VMSS, SubscriptionID: "s", ResourceGroup: "rg", Name: "b"}
	for _, test := range []struct {
		name   string
		groups []compute.Group
		random float64
		want   []time.Duration
	}{
		{name: "none"},
		{"one, no jitter", []compute.Group{a}, 0, []time.Duration{0}},
		{"one, full jitter", []compute.Group{a}, 1, []time.Duration{6 * time.Second}},
		{"two", []compute.Group{a, b}, 0.5, []time.Duration{3 * time.Second, 33 * time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []time.Duration
			for _, turn := range turns(test.groups, time.Minute, func() float64 { return test.random }) {
				got = append(got, turn.after)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// Comparisons that take longer than the interval: rounds neither pile up nor overlap.
func TestSlowRound(t *testing.T) {
	reader := fake.NewClientBuilder().Build()
	synctest.Test(t, func(t *testing.T) {
		to := &recorder{slow: 3 * time.Minute, ledgered: []compute.Group{{Kind: compute.VM, Name: "a"}}}
		stop := start(t, NewController(reader, to, time.Minute))
		<-time.After(30*time.Minute + time.Second)
		if got := to.take(); len(got) < 9 || len(got) > 11 {
			t.Errorf("%d comparisons", len(got))
		}
		to.quick()
		<-time.After(4 * time.Minute)
		to.take()
		<-time.After(10 * time.Minute)
		if got := to.take(); len(got) < 9 || len(got) > 11 {
			t.Errorf("%d comparisons in ten minutes: catches up with missed rounds", len(got))
		}
		stop()
	})
}
