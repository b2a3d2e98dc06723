package program

import (
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/podid-io/podid/internal/hook/hooktest"
)

// TestHostPods: of the pods on the node's network, one that is captured arrives at the listener
// there, in every way to connect and from groups of its own, and is refused without one. Others and
// the node's processes reach the service, and pods in networks of their own see no difference.
func TestHostPods(t *testing.T) {
	for _, passAbsent := range []bool{false, true} {
		w := newWorld(t)
		w.config.PassAbsent = passAbsent
		w.attach(t)
		ways := slices.DeleteFunc(hooktest.Ways(), func(way string) bool { return way == "bound device" }) // no eth0 there
		expect := func(group, want string) {
			t.Helper()
			for way, got := range hooktest.Clients(t, w.node, group, ways...) {
				if got != want {
					t.Errorf("%s: %q, want %q", way, got, want)
				}
			}
		}
		pod := filepath.Dir(w.podGroup)
		own := hooktest.Group(t, w.podGroup, "own", "deeper")
		other := hooktest.Group(t, w.podsGroup, "pod2", "container")
		expect(w.podGroup, "metadata service")

		w.capture(t, pod)
		for _, group := range []string{pod, w.podGroup, own} {
			expect(group, refused)
		}
		w.publishOnNode(t, "agent")
		for _, group := range []string{pod, w.podGroup, own} {
			expect(group, "agent")
		}
		for _, group := range []string{w.podsGroup, w.systemGroup, other} {
			expect(group, "metadata service")
		}
		want := map[bool]string{false: refused, true: "metadata service"}[passAbsent]
		if got := hooktest.Client(t, w.pod, w.podGroup, "connect"); got != want {
			t.Errorf("in a network of its own, without a listener: %q, want %q", got, want)
		}

		w.hook.Close()
		w.attach(t)
		expect(w.podGroup, "agent")
		if err := w.hook.Withdraw(w.config.Node); err != nil {
			t.Fatal(err)
		}
		expect(w.podGroup, refused)
		if got, err := w.hook.Captured(); err != nil || len(got) != 1 {
			t.Fatalf("captured: %v, %v", got, err)
		} else if err := w.hook.Free(got[0]); err != nil {
			t.Fatal(err)
		}
		expect(w.podGroup, "metadata service")
	}
}

// TestHostPodsDeep: a captured pod is found where its control group is deepest.
func TestHostPodsDeep(t *testing.T) {
	w := newWorld(t)
	top := filepath.Dir(w.podsGroup) // level 1
	w.podsGroup = hooktest.Group(t, top, slices.Repeat([]string{"level"}, maxDepth-1)...)
	var err error
	if w.config.Pods, err = GroupID(w.podsGroup); err != nil {
		t.Fatal(err)
	}
	w.attach(t)
	pod := hooktest.Group(t, w.podsGroup, "burstable", "pod")
	w.capture(t, pod)
	w.publishOnNode(t, "agent")
	if got := hooktest.Client(t, w.node, hooktest.Group(t, pod, "container"), "connect"); got != "agent" {
		t.Error(got)
	}
}

// capture captures the pod of a control group.
func (w *world) capture(t *testing.T, group string) {
	t.Helper()
	id, err := GroupID(group)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.hook.Capture(id); err != nil {
		t.Fatal(err)
	}
}

// publishOnNode makes a listener in the node's namespace, which answers with a text.
func (w *world) publishOnNode(t *testing.T, answer string) {
	t.Helper()
	l := listenIn(t, w.node, "127.0.0.1:0")
	serve(t, l, answer)
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if err := w.hook.Publish(w.config.Node, at); err != nil {
		t.Fatal(err)
	}
}
