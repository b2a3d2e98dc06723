package attest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// bonded is a table on a node whose newest interface a test sets.
type bonded struct {
	*Table
	t      *testing.T
	newest int
}

func newBonded(t *testing.T) *bonded {
	b := &bonded{t: t}
	b.Table = NewTable(Config{MaxWaiting: 1, MaxPerSource: 1, NewestLink: func() int { return b.newest }})
	return b
}

// expect asks as a connection by the link.
func (b *bonded) expect(link int, name string, want error) {
	b.t.Helper()
	got, err := b.Caller(Origin{Addr: netip.MustParseAddr("10.0.0.5"), Link: link})
	if !errors.Is(err, want) || got.Name != name {
		b.t.Fatalf("by link %d: got %q, %v; want %q, %v", link, got.Name, err, name, want)
	}
}

// ready sets since when a pod has had its network.
func ready(since time.Time) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)}}
	}
}

// TestAddressReused: another pod gets an address before the API server has reported the end of the
// first one.
func TestAddressReused(t *testing.T) {
	began := time.Now().Add(-time.Hour)
	for _, asked := range []bool{true, false} {
		b := newBonded(t)
		b.newest = 7 // the old pod's is one of these
		b.Set(aPod("old", ready(began)))
		if asked {
			b.expect(7, "old", nil)
			b.expect(7, "old", nil)
			b.expect(6, "", ErrMoved)
		}
		b.newest = 8
		b.expect(8, "", ErrMoved)
		// Late reports of the old pod: of its deletion, and of a restart of its container before that.
		b.Set(aPod("old", func(p *corev1.Pod) { ready(began)(p); deleted(true)(p) }))
		b.expect(8, "", ErrMoved)
		b.Set(aPod("old", func(p *corev1.Pod) {
			ready(began)(p)
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}}
		}))
		b.expect(8, "", ErrMoved)
		b.Set(aPod("new", ready(time.Now())))
		b.expect(8, "", ErrAmbiguous)
		b.Remove(types.NamespacedName{Namespace: "ns", Name: "old"})
		b.expect(8, "new", nil)
		b.expect(7, "", ErrMoved)
	}
}

// TestSameNameAgain: a pod of a StatefulSet comes back under its name and address.
func TestSameNameAgain(t *testing.T) {
	b := newBonded(t)
	b.newest = 7
	b.Set(aPod("db-0", nil))
	b.expect(7, "db-0", nil)
	b.newest = 8
	b.expect(8, "", ErrMoved)
	b.Set(aPod("db-0", func(p *corev1.Pod) { p.UID = "made again" }))
	b.expect(8, "db-0", nil)
}

// TestNewNetwork: a pod that gets a new network keeps its UID and perhaps its address, and comes
// from another interface.
func TestNewNetwork(t *testing.T) {
	started := func(since time.Time) func(*corev1.Pod) { // as kubelets before 1.29 report it
		return func(p *corev1.Pod) {
			for i := range 2 {
				running := &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(since.Add(-time.Duration(i) * time.Hour))}
				p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{State: corev1.ContainerState{Running: running}})
			}
		}
	}
	for name, since := range map[string]func(time.Time) func(*corev1.Pod){"condition": ready, "containers": started} {
		t.Run(name, func(t *testing.T) {
			b := newBonded(t)
			b.newest = 7
			set := func(at time.Time) {
				p := aPod("web", since(at))
				Strip(p)
				b.Set(p)
			}
			set(time.Now().Add(-time.Hour))
			b.expect(7, "web", nil)
			b.newest = 9
			b.expect(9, "", ErrMoved)
			set(time.Now().Add(-time.Minute)) // before it was last heard by its old interface
			b.expect(9, "", ErrMoved)
			set(time.Now().Add(2 * time.Second))
			b.expect(9, "web", nil)
			b.expect(7, "", ErrMoved)
		})
	}
}

func TestWithoutEvidence(t *testing.T) {
	b := newBonded(t)
	b.Set(aPod("web", nil)) // the newest interface is unknown
	b.expect(0, "web", nil)
	b.expect(12, "web", nil)
	b.expect(0, "web", nil)
	b.expect(13, "", ErrMoved)
	table := NewTable(Config{})
	table.Set(aPod("web", nil))
	if _, err := table.Caller(at("10.0.0.5")); err != nil {
		t.Error(err)
	}
}

// TestAskedAbout: an address moved, and no news come. The API server decides.
func TestAskedAbout(t *testing.T) {
	for name, test := range map[string]struct {
		says  *corev1.Pod
		fails error
		want  error
	}{
		"it lives":            {says: aPod("pod", nil)},
		"it ends":             {says: aPod("pod", deleted(true)), want: ErrMoved},
		"another of its name": {says: aPod("pod", func(p *corev1.Pod) { p.UID = "another" }), want: ErrMoved},
		"another address":     {says: aPod("pod", func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "10.0.0.6", nil }), want: ErrMoved},
		"it finished":         {says: aPod("pod", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), want: ErrMoved},
		"no answer":           {fails: errors.New("away"), want: ErrMoved},
	} {
		for _, heard := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, heard %t", name, heard), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					asked := 0
					table := NewTable(Config{
						MaxWaiting: 1, MaxPerSource: 1, NewestLink: func() int { return 7 },
						LinkThere: func(n int) bool { return n == 8 }, // 7 is gone
						Ask: func(context.Context, types.NamespacedName) (*corev1.Pod, error) {
							asked++
							return test.says, test.fails
						},
					})
					table.Set(aPod("pod", nil))
					settle := settleNeverSeen
					if heard {
						settle = settleTime
						if _, err := table.Caller(Origin{Addr: netip.MustParseAddr("10.0.0.5"), Link: 7}); err != nil {
							t.Fatal(err)
						}
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					began := time.Now()
					got, err := table.Await(ctx, Origin{Addr: netip.MustParseAddr("10.0.0.5"), Link: 8})
					if !errors.Is(err, test.want) || test.want == nil && (got.Name != "pod" || time.Since(began) != settle) || asked != 1 {
						t.Errorf("got %q, %v after %v, asked %d times; want %v", got.Name, err, time.Since(began), asked, test.want)
					}
				})
			})
		}
	}
}

// TestTakenAddress: a neighbor that takes the address of a live pod gets nothing, although the API
// server confirms that the pod is alive.
func TestTakenAddress(t *testing.T) {
	for name, test := range map[string]struct {
		heard, there, newcomer, want bool
		waits                        time.Duration // of the newcomer, before
	}{
		"heard, its interface is there":                {heard: true, there: true},
		"heard, its interface is gone":                 {heard: true, want: true},
		"heard, and there is a pod without an address": {heard: true, newcomer: true},
		"never heard, and one without an address":      {newcomer: true},
		"never heard": {want: true},
		"never heard, and one that never gets an address": {newcomer: true, waits: newcomerTime, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := NewTable(Config{
					MaxWaiting: 1, MaxPerSource: 1, NewestLink: func() int { return 7 },
					Ask:       func(context.Context, types.NamespacedName) (*corev1.Pod, error) { return aPod("pod", nil), nil },
					LinkThere: func(n int) bool { return n != 7 || test.there },
				})
				table.Set(aPod("pod", nil))
				if test.newcomer {
					table.Set(aPod("newcomer", func(p *corev1.Pod) { p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodPending, "", nil }))
					time.Sleep(test.waits) //nolint:forbidigo // fake time
				}
				if test.heard {
					if _, err := table.Caller(Origin{Addr: netip.MustParseAddr("10.0.0.5"), Link: 7}); err != nil {
						t.Fatal(err)
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := table.Await(ctx, Origin{Addr: netip.MustParseAddr("10.0.0.5"), Link: 8}); (err == nil) != test.want {
					t.Errorf("got %v", err)
				}
				if table.Remove(types.NamespacedName{Namespace: "ns", Name: "newcomer"}); len(table.without) != 0 {
					t.Errorf("pods without an address left over: %v", table.without)
				}
			})
		})
	}
}

func TestLink(t *testing.T) {
	links, err := net.Interfaces()
	if err != nil || len(links) == 0 {
		t.Skip("no interfaces here")
	}
	if !LinkThere(links[0].Index) {
		t.Errorf("no interface %d", links[0].Index)
	}
	if LinkThere(1 << 30) {
		t.Error("there is an interface that is not")
	}
}
