package program

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/testnet"
)

// TestGuard: raw and packet sockets of pods, host-network pods and foreign processes in a pod's
// network send past connect4. Nothing of it leaves the node, while the node's own do.
func TestGuard(t *testing.T) {
	w := newWorldOf(t, false)
	outside := testnet.New(t)
	testnet.Veth(t, w.node, "eth0", outside, "eth0")
	w.node.Address(t, "eth0", "10.0.0.4/24")
	w.node.Route(t, "0.0.0.0/0", "10.0.0.1", "eth0")
	w.node.Sysctl(t, "ipv4/ip_forward", "1")
	outside.Address(t, "eth0", "10.0.0.1/24")
	outside.Address(t, "lo", "169.254.169.254/32")
	outside.Route(t, "10.244.0.0/24", "10.0.0.4", "eth0")
	serve(t, listenIn(t, outside, "169.254.169.254:80"), "metadata service")
	tap := hooktest.NewTap(t, outside)
	pod := netip.MustParseAddr("10.244.0.2")

	// Without the guard they do leave, so that the test can fail.
	if got := hooktest.Client(t, w.pod, w.podGroup, "AF_PACKET"); got != hooktest.Sent {
		t.Fatal(got)
	}
	eventually(t, "the packet arrives", func() (bool, error) { return slices.Contains(tap.Sources(), pod), nil })
	uplink := Uplink{Ethernet: true}
	inNode(t, w, func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		uplink.Index = i.Index
		return w.hook.Guard(uplink)
	})
	before := len(tap.Sources())

	sent := uint64(0)
	for _, from := range []struct {
		name string
		in   *testnet.Net
	}{{"pod", w.pod}, {"host-network pod", w.node}} {
		for _, way := range hooktest.Raw() {
			// A packet socket gets an error at once when its packet is dropped on the same interface.
			if got := hooktest.Client(t, from.in, w.podGroup, way); got != hooktest.Sent && got != unix.ENOBUFS.Error() {
				t.Errorf("%s by %s: %s", from.name, way, got)
			}
			sent++
			eventually(t, from.name+" by "+way+" is dropped", func() (bool, error) {
				dropped, err := w.hook.Count(Dropped)
				return dropped == sent, err
			})
		}
	}
	if arrived := tap.Sources()[before:]; len(arrived) > 0 {
		t.Errorf("arrived at the metadata service from %v", arrived)
	}
	for _, group := range []string{w.systemGroup, w.podGroup} {
		if got := hooktest.Client(t, w.node, group, "connect"); got != "metadata service" {
			t.Errorf("on the node's network in %s: %q", group, got)
		}
	}
	inNode(t, w, func() error { return w.hook.Guarded(uplink) })
	// A successor replaces it.
	w.attach(t)
	inNode(t, w, func() error { return w.hook.Guard(uplink) })
	inNode(t, w, func() error { return w.hook.Guarded(uplink) })
}

func eventually(t *testing.T, what string, f func() (bool, error)) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) { return f() })
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func inNode(t *testing.T, w *world, f func() error) {
	t.Helper()
	if err := w.node.Do(f); err != nil {
		t.Fatal(err)
	}
}
