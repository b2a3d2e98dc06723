package attest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func aPod(name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.5", PodIPs: []corev1.PodIP{{IP: "10.0.0.5"}, {IP: "fd00::5"}},
			HostIP: "10.1.0.1", HostIPs: []corev1.HostIP{{IP: "10.1.0.1"}, {IP: "fd01::1"}},
		},
	}
	if change != nil {
		change(p)
	}
	return p
}

func deleted(running ...bool) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		now := metav1.Now()
		p.DeletionTimestamp = &now
		for _, r := range running {
			s := corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}
			if r {
				s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
			}
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, s)
		}
	}
}

// sandbox sets what the kubelet says of the pod's sandbox.
func sandbox(status corev1.ConditionStatus) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: status}}
	}
}

func addresses(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// at returns an origin of unknown interface.
func at(address string) Origin { return Origin{Addr: netip.MustParseAddr(address)} }

func TestLive(t *testing.T) {
	both := addresses("10.0.0.5", "fd00::5")
	tests := []struct {
		name   string
		change func(*corev1.Pod)
		want   []netip.Addr // none: not a caller
	}{
		{"running", nil, both},
		{"pending with address", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, both},
		{"pending without", func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: corev1.PodPending, HostIP: "10.1.0.1"}
		}, nil},
		{"succeeded", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, nil},
		{"failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, nil},
		{"unknown", func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown }, nil},
		{"no phase", func(p *corev1.Pod) { p.Status.Phase = "" }, nil},
		{"deleted, runs on", deleted(false, true), both},
		{"deleted, containers gone", deleted(false, false), nil},
		{"deleted, no containers", deleted(), nil},
		{"deleted, init runs", func(p *corev1.Pod) {
			deleted()(p)
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		}, both},
		{"sandbox gone", sandbox(corev1.ConditionFalse), nil},
		{"sandbox gone, pending", func(p *corev1.Pod) {
			sandbox(corev1.ConditionFalse)(p)
			p.Status.Phase = corev1.PodPending
		}, nil},
		{"sandbox gone, containers ended", func(p *corev1.Pod) {
			sandbox(corev1.ConditionFalse)(p)
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
		}, nil},
		{"sandbox gone, a container runs", func(p *corev1.Pod) {
			sandbox(corev1.ConditionFalse)(p)
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		}, both},
		{"sandbox ready", sandbox(corev1.ConditionTrue), both},
		{"sandbox unknown", sandbox(corev1.ConditionUnknown), both},
		{"host network", func(p *corev1.Pod) { p.Spec.HostNetwork = true }, nil},
		{"the node's address", func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "10.1.0.1", []corev1.PodIP{{IP: "fd01::1"}} }, nil},
		{"loopback", func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "127.0.0.1", nil }, nil},
		{"nonsense", func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "x", []corev1.PodIP{{IP: ""}} }, nil},
		{"mapped", func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "::ffff:10.0.0.5", nil }, addresses("10.0.0.5")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, stripped := range []bool{false, true} {
				p := aPod("web", tt.change)
				if stripped {
					Strip(p)
				}
				got := callerAddresses(p)
				if !slices.Equal(got, tt.want) {
					t.Errorf("stripped %v: got %v, want %v", stripped, got, tt.want)
				}
				table := NewTable(Config{MaxWaiting: 1, MaxPerSource: 1})
				table.Set(p)
				if _, err := table.Caller(at("10.0.0.5")); (err == nil) != (len(tt.want) > 0) {
					t.Errorf("stripped %v: table says %v", stripped, err)
				}
			}
		})
	}
}

func TestTableStory(t *testing.T) {
	five := at("10.0.0.5")
	table := NewTable(Config{MaxWaiting: 4, MaxPerSource: 2})
	check := func(name string, want error) {
		t.Helper()
		got, err := table.Caller(five)
		if !errors.Is(err, want) || want == nil && got.Name != name {
			t.Fatalf("got %v, %v; want %s, %v", got, err, name, want)
		}
	}
	check("", ErrUnknown)
	table.Set(aPod("old", nil))
	check("old", nil)
	table.Set(aPod("new", nil)) // it has the address now, and the old one's end is not known yet
	check("", ErrAmbiguous)
	table.Set(aPod("old", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
	check("new", nil)
	table.Set(aPod("new", func(p *corev1.Pod) { p.UID = "made again" }))
	if c, _ := table.Caller(at("::ffff:10.0.0.5")); c.UID != "made again" {
		t.Fatalf("got %v", c)
	}
	table.Remove(types.NamespacedName{Namespace: "ns", Name: "new"})
	check("", ErrUnknown)
	if len(table.pods)+len(table.byAddr)+len(table.waits) != 0 {
		t.Errorf("left over: %+v", table)
	}
	if _, ok := table.Named(types.NamespacedName{Namespace: "ns", Name: "new"}); ok {
		t.Error("still named")
	}
}

func TestAwait(t *testing.T) {
	five := at("10.0.0.5")
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(Config{MaxWaiting: 3, MaxPerSource: 2})
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		type result struct {
			caller Caller
			err    error
			took   time.Duration
		}
		results := make(chan result, 4)
		await := func(a Origin) {
			began := time.Now()
			go func() {
				c, err := table.Await(ctx, a)
				results <- result{c, err, time.Since(began)}
			}()
			synctest.Wait()
		}
		await(five)
		await(five)
		if _, err := table.Await(ctx, five); !errors.Is(err, ErrTooMany) {
			t.Errorf("third from one address: %v", err)
		}
		await(at("10.0.0.6"))
		await(at("10.0.0.7"))
		if r := <-results; !errors.Is(r.err, ErrTooMany) || r.took != 0 {
			t.Errorf("the newest from the address that has most: %+v", r)
		}
		if _, err := table.Await(ctx, at("10.0.0.8")); !errors.Is(err, ErrTooMany) {
			t.Errorf("fourth in all, of which none has more than one: %v", err)
		}
		<-time.After(time.Second)
		table.Set(aPod("web", nil))
		if r := <-results; r.err != nil || r.caller.Name != "web" || r.took != time.Second {
			t.Errorf("got %+v", r)
		}
		for range 2 {
			if r := <-results; !errors.Is(r.err, ErrUnknown) || r.took != 4*time.Second {
				t.Errorf("got %+v", r)
			}
		}
		if table.waiting.Len() != 0 || len(table.waits) != 0 {
			t.Errorf("still waiting: %d, %v", table.waiting.Len(), table.waits)
		}
	})
}

// TestNamed: a pod is named from its binding to the node to its end, whether it has an address or
// not.
func TestNamed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*corev1.Pod)
		named  bool
	}{
		{"running", nil, true},
		{"volumes being mounted", func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending, HostIP: "10.1.0.1"} }, true},
		{"host network", func(p *corev1.Pod) { p.Spec.HostNetwork, p.Status.PodIP = true, p.Status.HostIP }, true},
		{"sandbox gone", sandbox(corev1.ConditionFalse), true},
		{"deleted, runs on", deleted(true), true},
		{"deleted, containers gone", deleted(false), false},
		{"succeeded", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, false},
		{"failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := types.NamespacedName{Namespace: "ns", Name: "web"}
			table := NewTable(Config{})
			table.Set(aPod("web", nil))
			table.Set(aPod("web", tt.change))
			if c, ok := table.Named(key); ok != tt.named || ok && c.UID != "uid-web" {
				t.Errorf("got %v, %v", c, ok)
			}
			table.Remove(key)
			if c, ok := table.Named(key); ok {
				t.Errorf("got %v after its removal", c)
			}
		})
	}
}

// TestSandboxGone: an address that a pod without a sandbox keeps in its status is another pod's.
// When the first pod has a sandbox again, with that address, the address proves neither of the
// two.
func TestSandboxGone(t *testing.T) {
	table := NewTable(Config{MaxWaiting: 1, MaxPerSource: 1})
	table.Set(aPod("old", sandbox(corev1.ConditionTrue)))
	table.Set(aPod("new", sandbox(corev1.ConditionTrue)))
	if c, err := table.Caller(at("10.0.0.5")); !errors.Is(err, ErrAmbiguous) {
		t.Fatalf("got %v, %v", c, err)
	}
	table.Set(aPod("old", sandbox(corev1.ConditionFalse)))
	if c, err := table.Caller(at("10.0.0.5")); err != nil || c.Name != "new" {
		t.Fatalf("got %v, %v; want the pod with the sandbox", c, err)
	}
	table.Set(aPod("old", sandbox(corev1.ConditionTrue)))
	if c, err := table.Caller(at("10.0.0.5")); !errors.Is(err, ErrAmbiguous) {
		t.Fatalf("got %v, %v", c, err)
	}
}

// TestProven: a caller whose control group the kernel proved is the pod of that group, from when
// the pod is bound to the node, wherever its packets come from.
func TestProven(t *testing.T) {
	const hash = "0123456789abcdef0123456789abcdef"
	static := func(name string) *corev1.Pod {
		pod := aPod(name, func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: hash, "other": "x"}
		})
		Strip(pod)
		return pod
	}
	table := NewTable(Config{MaxWaiting: 10, MaxPerSource: 10})
	expect := func(group types.UID, name string, want error) {
		t.Helper()
		got, err := table.Caller(Origin{Addr: netip.MustParseAddr("127.0.0.1"), Link: 1, Pod: group})
		if got.Name != name || !errors.Is(err, want) {
			t.Errorf("group of %s: got %q, %v; want %q, %v", group, got.Name, err, name, want)
		}
	}
	expect("uid-new", "", ErrNotBound)
	if _, err := table.Await(t.Context(), Origin{Outside: "web"}); !errors.Is(err, ErrOutside) {
		t.Errorf("outside of all pods: %v", err)
	}
	table.Set(aPod("new", func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} }))
	expect("uid-new", "new", nil)
	table.Set(aPod("same-address", nil))
	table.Set(aPod("as-well", nil))
	expect("uid-as-well", "as-well", nil)
	table.Set(aPod("host", func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
	expect("uid-host", "", ErrNotBound)

	table.Set(static("static"))
	expect(hash, "static", nil)
	table.Set(static("made-by-hand"))
	expect(hash, "", ErrAmbiguous)
	table.Set(aPod("thief", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "uid-new"} }))
	expect("uid-new", "new", nil)
	expect("uid-thief", "thief", nil)

	table.Remove(types.NamespacedName{Namespace: "ns", Name: "new"})
	expect("uid-new", "", ErrNotBound)
	table.Set(aPod("as-well", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
	expect("uid-as-well", "", ErrNotBound)
}

// TestProvenOnNode: of the pods on the node's network, one that is captured is a caller by its
// control group, while it has not finished, and by no address.
func TestProvenOnNode(t *testing.T) {
	host := func(name string, change func(*corev1.Pod)) *corev1.Pod {
		pod := aPod(name, func(p *corev1.Pod) {
			p.Spec.HostNetwork, p.Status.PodIP, p.Status.PodIPs = true, "10.1.0.1", nil
			if change != nil {
				change(p)
			}
		})
		Strip(pod)
		return pod
	}
	captured := map[string]bool{"captured": true}
	table := NewTable(Config{MaxWaiting: 10, MaxPerSource: 10, Captured: func(p *corev1.Pod) bool { return captured[p.Name] }})
	expect := func(what, name string, ok bool) {
		t.Helper()
		got, err := table.Caller(Origin{Pod: types.UID("uid-" + name)})
		if ok != (err == nil && got.Name == name) || !ok && !errors.Is(err, ErrNotBound) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
		if got, err := table.Caller(at("10.1.0.1")); err == nil {
			t.Errorf("%s: the node's address is that of %v", what, got)
		}
		if _, named := table.Named(types.NamespacedName{Namespace: "ns", Name: "other"}); !named {
			t.Errorf("%s: not known by name", what)
		}
	}
	table.Set(host("other", nil))
	expect("not captured", "other", false)
	table.Set(host("captured", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }))
	expect("pending", "captured", true)
	if len(table.without) > 0 {
		t.Error("the pod counts as one that is about to get an address")
	}
	table.Set(host("captured", deleted(true)))
	expect("being deleted", "captured", true)
	table.Set(host("captured", deleted(false)))
	expect("its containers are gone", "captured", false)
	table.Set(host("captured", nil))
	expect("running", "captured", true)
	captured["captured"] = false
	table.Set(host("captured", nil))
	expect("no longer captured", "captured", false)
	captured["captured"] = true
	table.Set(host("captured", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }))
	expect("failed", "captured", false)
	table.Set(aPod("captured", nil))
	expect("with an own network", "captured", true)
}

// TestProvenSoon: a request of a pod that the API server has not reported yet is answered when it
// is.
func TestProvenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(Config{MaxWaiting: 10, MaxPerSource: 10})
		got := make(chan Caller)
		go func() {
			c, err := table.Await(t.Context(), Origin{Pod: "uid-new"})
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
		synctest.Wait()
		table.Set(aPod("new", nil))
		if c := <-got; c.Name != "new" {
			t.Errorf("got %v", c)
		}
	})
}
