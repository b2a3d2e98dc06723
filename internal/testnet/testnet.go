// Package testnet builds throw-away networks for tests: network namespaces without a way out,
// joined by veths and bridges. A test that needs nftables, addresses or 169.254.169.254 works in
// one of these and never in the network of the machine.
//
// A namespace belongs to threads, not to processes, so everything happens in Net.Do. It runs a
// function on its own thread inside the namespace and ends that thread afterward. Sockets stay in
// the namespace where they were opened and can be used from anywhere. A goroutine that the function
// starts is NOT in the namespace.
package testnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Require skips the test unless kernel tests were requested, and fails it if they were but cannot
// run.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv("PODID_TEST_KERNEL") != "1" {
		t.Skip("needs root and network namespaces: run make test-kernel")
	}
	if os.Geteuid() != 0 {
		t.Fatal("kernel tests need root: they make network namespaces (sudo make test-kernel)")
	}
}

// Net is one throw-away network namespace, which is removed when the test ends.
type Net struct {
	file *os.File
	id   string // what /proc shows for it, as "net:[4026532177]"
}

// New creates a namespace that has only lo, up.
func New(t testing.TB) *Net {
	t.Helper()
	n := &Net{}
	must(t, "make a network namespace", onOwnThread(func() error {
		before, err := namespaceOf("thread-self")
		if err != nil {
			return err
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if n.id, err = namespaceOf("thread-self"); err != nil {
			return err
		}
		if n.id == before {
			return errors.New("the kernel made no new namespace: refusing to go on")
		}
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	}))
	t.Cleanup(func() { _ = n.file.Close() })
	n.Up(t, "lo")
	return n
}

// Do runs f on a thread in the namespace and waits for it.
func (n *Net) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the namespace: %w", err)
		}
		if err := n.verify(); err != nil {
			return err
		}
		return f()
	})
}

// verify is the safety check before every use. This thread must be in the namespace that New
// created, which is neither the one where the process started nor, if that can be read, that of
// process 1. (Without permission to read process 1 the first two suffice: New created the namespace
// by unshare.) Threads of one process may differ, so verify reads the thread's own link.
func (n *Net) verify() error {
	mine, err := namespaceOf("thread-self")
	if err != nil {
		return err
	}
	started, err := namespaceOf("self")
	if err != nil {
		return err
	}
	machine, err := namespaceOf("1")
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return err
	}
	if mine != n.id || mine == started || mine == machine {
		return fmt.Errorf("this thread is in %s, not in a namespace of the test's own: refusing to go on", mine)
	}
	return nil
}

// namespaceOf returns the network namespace of a process, given its folder in /proc.
func namespaceOf(process string) (string, error) {
	id, err := os.Readlink(filepath.Join("/proc", process, "ns/net"))
	if err != nil {
		return "", fmt.Errorf("read a network namespace: %w", err)
	}
	return id, nil
}

// onOwnThread runs f on a thread that runs nothing else: the goroutine ends with the thread still
// locked, so that the Go runtime ends the thread instead of reusing it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		defer close(done) // also when f leaves by t.FailNow
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The main thread never ends, and /proc/self shows its namespace: do not change it.
			done <- onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	err, finished := <-done
	if !finished {
		return errors.New("the function left its thread early")
	}
	return err
}

// Veth joins two namespaces by a pair of interfaces, both up. The names must be unused.
func Veth(t testing.TB, a *Net, nameA string, b *Net, nameB string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nameA
	must(t, "add veth "+nameA, a.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(int(b.file.Fd())),
		})
	}))
	a.Up(t, nameA)
	b.Up(t, nameB)
}

// Bridge creates a bridge, up, with the given interfaces as its ports.
func (n *Net) Bridge(t testing.TB, name string, ports ...string) {
	t.Helper()
	must(t, "add bridge "+name, n.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		added, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		// A bridge whose hardware address was not set takes the lowest of its ports', and changes it with
		// them.
		if err := netlink.LinkSetHardwareAddr(added, added.Attrs().HardwareAddr); err != nil {
			return err
		}
		for _, port := range ports {
			link, err := netlink.LinkByName(port)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(link, bridge); err != nil {
				return err
			}
		}
		return nil
	}))
	n.Up(t, name)
}

// Up sets an interface up.
func (n *Net) Up(t testing.TB, link string) {
	t.Helper()
	n.withLink(t, "set up "+link, link, netlink.LinkSetUp)
}

// Address assigns an address, such as 10.0.0.1/24, to an interface.
func (n *Net) Address(t testing.TB, link, cidr string) {
	t.Helper()
	n.withLink(t, "add address "+cidr, link, func(l netlink.Link) error {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, addr)
	})
}

// Route routes a destination, such as 10.244.0.0/24 or 0.0.0.0/0, to an interface: through a
// gateway on that link, or directly if gateway is empty.
func (n *Net) Route(t testing.TB, destination, gateway, link string) {
	t.Helper()
	n.withLink(t, "add route "+destination, link, func(l netlink.Link) error {
		dst, err := netlink.ParseIPNet(destination)
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}
		if gateway != "" {
			via, err := netlink.ParseAddr(gateway + "/32")
			if err != nil {
				return err
			}
			route.Gw, route.Scope, route.Flags = via.IP, netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
		}
		return netlink.RouteAdd(route)
	})
}

// Sysctl sets a value below /proc/sys/net, such as "ipv4/ip_forward".
func (n *Net) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	must(t, "set sysctl "+name, n.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0)
	}))
}

// ReadSysctl reads a value below /proc/sys/net, or "" if the kernel does not have it.
func (n *Net) ReadSysctl(t testing.TB, name string) string {
	t.Helper()
	var value string
	must(t, "read sysctl "+name, n.Do(func() error {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net", name))
		value = strings.TrimSpace(string(b))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}))
	return value
}

func (n *Net) withLink(t testing.TB, act, name string, f func(netlink.Link) error) {
	t.Helper()
	must(t, act, n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return f(link)
	}))
}

func must(t testing.TB, act string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", act, err)
	}
}
