package attest

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/testnet"
)

// TestBridgePorts: each pod behind a bridge has an origin of its own, even if it has taken over the
// address of another pod.
func TestBridgePorts(t *testing.T) {
	testnet.Require(t)
	node := testnet.New(t)
	first, second := testnet.New(t), testnet.New(t)
	testnet.Veth(t, node, "veth1", first, "eth0")
	testnet.Veth(t, node, "veth2", second, "eth0")
	node.Bridge(t, "cni0", "veth1", "veth2")
	node.Address(t, "cni0", "10.9.0.1/24")
	address := netip.MustParseAddr("10.9.0.2")
	first.Address(t, "eth0", "10.9.0.2/24")

	origins := NewOrigins()
	expect := func(pod *testnet.Net, port string) {
		t.Helper()
		talk(t, pod, node)
		err := node.Do(func() error {
			bridge, err := netlink.LinkByName("cni0")
			if err != nil {
				return err
			}
			want, err := netlink.LinkByName(port)
			if err != nil {
				return err
			}
			if got := origins.behind(bridge.Attrs().Index, address); got != want.Attrs().Index {
				return fmt.Errorf("behind the bridge: interface %d, want %d (%s)", got, want.Attrs().Index, port)
			}
			if got := origins.behind(want.Attrs().Index, address); got != want.Attrs().Index {
				return fmt.Errorf("an interface that is no bridge: got %d, want itself, %d", got, want.Attrs().Index)
			}
			if got := origins.behind(bridge.Attrs().Index, netip.MustParseAddr("10.9.0.77")); got != 0 {
				return fmt.Errorf("an address without a pod is behind %d", got)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	expect(first, "veth1")
	first.Do(func() error { //nolint:errcheck // what follows would fail
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	})
	second.Address(t, "eth0", "10.9.0.2/24")
	expect(second, "veth2")
}

// talk makes a pod connect to the node and read one byte, so that the node learns where the pod is.
func talk(t *testing.T, pod, node *testnet.Net) {
	t.Helper()
	var l net.Listener
	err := node.Do(func() (err error) {
		l, err = net.Listen("tcp", "10.9.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write([]byte{1})
			_ = c.Close()
		}
	}()
	err = pod.Do(func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Read(make([]byte, 1))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
