package wireprobe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

// asProbe makes the test binary send a probe, so that it can be killed.
const asProbe = "PODID_TEST_AS_PROBE"

func TestMain(m *testing.M) {
	if os.Getenv(asProbe) != "1" {
		m.Run()
		return
	}
	for range 100 { // far more than it lives
		if _, err := Run(context.Background(), config()); err != nil {
			panic(err)
		}
	}
}

func config() Config {
	return Config{
		Metadata: netip.MustParseAddrPort("169.254.169.254:80"), Source: netip.MustParseAddr("169.254.171.78"),
		Question: Question{Question: strings.Repeat("0a", 16), Answer: strings.Repeat("1b", 16)},
	}
}

// newNode returns a node that forwards nothing, so that no probe is answered.
func newNode(t *testing.T) *testnet.Net {
	testnet.Require(t)
	return testnet.New(t)
}

// here returns whether the node has the interface of a probe.
func here(t *testing.T, node *testnet.Net) (is bool) {
	t.Helper()
	err := node.Do(func() error {
		_, err := netlink.LinkByName(Interface)
		is = err == nil
		if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return is
}

func awaitInterface(t *testing.T, node *testnet.Net, want bool) {
	t.Helper()
	testenv.Eventually(t, "the probe's interface", func() string {
		if is := here(t, node); is != want {
			return fmt.Sprintf("it is there: %v", is)
		}
		return ""
	})
}

func run(t *testing.T, node *testnet.Net) (f Finding, err error) {
	t.Helper()
	if failed := node.Do(func() error { f, err = Run(t.Context(), config()); return nil }); failed != nil {
		t.Fatal(failed)
	}
	return f, err
}

// inNetwork calls a function in the network of a probe.
func inNetwork(t *testing.T, node *testnet.Net, f func(*network) error) {
	t.Helper()
	err := node.Do(func() error {
		here, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer func() { _ = here.Close() }()
		return netns.OnOwnThread(func() error {
			if err := netns.Enter(here); err != nil {
				return err
			}
			n, err := newNetwork(t.Context(), config())
			if err != nil {
				return err
			}
			defer n.close()
			return f(n)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// setFilter sets rp_filter in the network of a probe, to what a new namespace may have.
func setFilter(value string) error {
	for _, of := range []string{"all", inside} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+of+"/rp_filter", []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// TestFilters: a node that would route a probe on is seen to do so whatever rp_filter a new
// namespace has. The node's address is none of the probe's network.
func TestFilters(t *testing.T) {
	for _, filter := range []string{"0", "1", "2"} {
		node, router := newNode(t), testnet.New(t)
		testnet.Veth(t, node, "eth0", router, "eth0")
		node.Address(t, "eth0", "10.0.0.4/24")
		node.Route(t, "0.0.0.0/0", "10.0.0.1", "eth0")
		node.Sysctl(t, "ipv4/conf/all/forwarding", "1")
		inNetwork(t, node, func(*network) error {
			if err := setFilter(filter); err != nil {
				return err
			}
			f, err := connect(t.Context(), config())
			if f.Met != Router {
				t.Errorf("rp_filter %s: %+v", filter, f)
			}
			return err
		})
	}
}

// TestRefusedInside: a connect that a program on the control group refuses, which lets it arrive at
// a loopback address, is a reset.
func TestRefusedInside(t *testing.T) {
	inNetwork(t, newNode(t), func(*network) error {
		c := config()
		c.Metadata = netip.MustParseAddrPort("127.0.0.1:0")
		f, err := connect(t.Context(), c)
		if f.Met != Reset {
			t.Errorf("%+v", f)
		}
		return err
	})
}

// TestHardwareAddresses: the ends have addresses that were set, which udev leaves alone.
func TestHardwareAddresses(t *testing.T) {
	inNetwork(t, newNode(t), func(n *network) error {
		inner, err := n.own.LinkByName(inside)
		if err != nil {
			return err
		}
		outer, within := n.outer.Attrs().HardwareAddr.String(), inner.Attrs().HardwareAddr.String()
		if outer != outerAddress.String() || within != innerAddress.String() {
			t.Errorf("they are %s and %s", outer, within)
		}
		return nil
	})
}

// TestKilled: the interface of a process that is killed during a probe goes with it.
func TestKilled(t *testing.T) {
	node := newNode(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asProbe+"=1")
	if err := node.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	awaitInterface(t, node, true)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	awaitInterface(t, node, false)
	if f, err := run(t, node); err != nil || f.Met != Unknown {
		t.Errorf("the next probe: %+v, %v", f, err)
	}
}

// TestLeftover: an interface that a probe has left is removed by a later one. What is no probe's
// stays.
func TestLeftover(t *testing.T) {
	node, other := newNode(t), testnet.New(t)
	testnet.Veth(t, node, Interface, other, "probe")
	began := time.Now()
	if f, err := run(t, node); err != nil || f.Met != Unknown {
		t.Errorf("%+v, %v", f, err)
	}
	if took := time.Since(began); took < busyTime {
		t.Errorf("removed after %v: it may have been in use", took)
	}
	if here(t, node) {
		t.Error("left again")
	}
	node.Bridge(t, Interface)
	if _, err := run(t, node); err == nil || !strings.Contains(err.Error(), "bridge") {
		t.Errorf("with a bridge of that name: %v", err)
	}
	if !here(t, node) {
		t.Error("removed what is no probe's")
	}
}
