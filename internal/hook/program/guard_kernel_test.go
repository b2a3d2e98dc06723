package program

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hostrouting"
	"github.com/podid-io/podid/internal/testnet"
)

// uplinked is a world whose node has an uplink. The metadata service is behind it.
type uplinked struct {
	*world
	outside *testnet.Net
	uplink  Uplink
	tap     *hooktest.Tap
}

func newUplinked(t *testing.T) *uplinked {
	t.Helper()
	w := &uplinked{world: newWorldOf(t, false), outside: testnet.New(t), uplink: Uplink{Ethernet: true}}
	testnet.Veth(t, w.node, "eth0", w.outside, "eth0")
	w.node.Address(t, "eth0", "10.0.0.4/24")
	w.node.Route(t, "0.0.0.0/0", "10.0.0.1", "eth0")
	w.node.Sysctl(t, "ipv4/ip_forward", "1")
	w.outside.Address(t, "eth0", "10.0.0.1/24")
	w.outside.Address(t, "lo", "169.254.169.254/32")
	w.outside.Route(t, "10.244.0.0/24", "10.0.0.4", "eth0")
	serve(t, listenIn(t, w.outside, "169.254.169.254:80"), "metadata service")
	w.tap = hooktest.NewTap(t, w.outside)
	w.uplink.Index = w.index(t, "eth0")
	return w
}

// index returns the index of an interface of the node.
func (w *uplinked) index(t *testing.T, name string) (index int) {
	t.Helper()
	inNode(t, w.world, func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			index = i.Index
		}
		return err
	})
	return index
}

// remove removes an interface of the node.
func (w *uplinked) remove(t *testing.T, u Uplink) {
	t.Helper()
	inNode(t, w.world, func() error {
		on, err := netlink.LinkByIndex(u.Index)
		if err != nil {
			return err
		}
		return netlink.LinkDel(on)
	})
}

func (w *uplinked) guard(t *testing.T) {
	t.Helper()
	inNode(t, w.world, func() error { return w.hook.Guard(w.uplink) })
}

func (w *uplinked) guarded(t *testing.T) error {
	t.Helper()
	var guarded error
	inNode(t, w.world, func() error { guarded = w.hook.Guarded(w.uplink); return nil })
	return guarded
}

// dropped returns how many packets were dropped by the guard, and by the uplink's table if there is
// one.
func (w *uplinked) dropped(t *testing.T) uint64 {
	t.Helper()
	n, err := w.hook.Count(Dropped)
	if err != nil {
		t.Fatal(err)
	}
	inNode(t, w.world, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := tableOf(w.uplink)
		rules, err := conn.GetRules(table, &nftables.Chain{Name: egressChain, Table: table})
		for _, r := range rules {
			for _, e := range r.Exprs {
				if c, ok := e.(*expr.Counter); ok {
					n += c.Packets
				}
			}
		}
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
	return n
}

// drops fails the test unless the guard drops what a client sends.
func (w *uplinked) drops(t *testing.T, in *testnet.Net, group, way string) {
	t.Helper()
	before := w.dropped(t)
	// A packet socket gets an error at once when its packet is dropped on the same interface.
	if got := hooktest.Client(t, in, group, way); got != hooktest.Sent && got != unix.ENOBUFS.Error() {
		t.Errorf("%s: %s", way, got)
	}
	eventually(t, way+" is dropped", func() (bool, error) { return w.dropped(t) == before+1, nil })
}

// TestGuard: raw and packet sockets of pods, host-network pods and foreign processes in a pod's
// network send past connect4. Nothing of it leaves the node, while the node's own do. Only nftables
// stops what a host-network pod sends past tc.
func TestGuard(t *testing.T) {
	for _, egress := range []bool{false, true} {
		t.Run(fmt.Sprintf("with nftables: %v", egress), func(t *testing.T) {
			w := newUplinked(t)
			w.hook.noEgress.Store(!egress)
			// Without the guard they do leave, so that the test can fail.
			ways := []string{"AF_PACKET"}
			if egress {
				ways = append(ways, "AF_PACKET, past tc", "AF_PACKET, past tc, forged protocol, 802.1Q, tagged")
			}
			w.leave(t, w.node, ways...)
			w.leave(t, w.pod, "AF_PACKET")
			w.guard(t)
			if egress && w.hook.noEgress.Load() {
				t.Skip(errNoEgress)
			}
			w.nothingLeaves(t, egress)
			for _, group := range []string{w.systemGroup, w.podGroup} {
				if got := hooktest.Client(t, w.node, group, "connect"); got != "metadata service" {
					t.Errorf("on the node's network in %s: %q", group, got)
				}
			}
			if err := w.guarded(t); err != nil {
				t.Error(err)
			}
			inNode(t, w.world, func() error { return Remove(w.pins) })
			w.leave(t, w.node, ways...)
		})
	}
}

// leave fails the test unless what a pod's client sends arrives at the metadata service.
func (w *uplinked) leave(t *testing.T, in *testnet.Net, ways ...string) {
	t.Helper()
	for _, way := range ways {
		before := len(w.tap.Sources())
		if got := hooktest.Client(t, in, w.podGroup, way); got != hooktest.Sent {
			t.Fatalf("%s: %s", way, got)
		}
		eventually(t, way+" arrives", func() (bool, error) { return len(w.tap.Sources()) > before, nil })
	}
}

// nothingLeaves fails the test if anything that a pod sends arrives at the metadata service.
func (w *uplinked) nothingLeaves(t *testing.T, egress bool) {
	t.Helper()
	before := len(w.tap.Sources())
	for _, way := range hooktest.Raw() {
		if !hooktest.Tagged(way) { // the node does not forward those
			w.drops(t, w.pod, w.podGroup, way)
		}
		if egress || !hooktest.PastTC(way) {
			w.drops(t, w.node, w.podGroup, way)
		}
	}
	if arrived := w.tap.Sources()[before:]; len(arrived) > 0 {
		t.Errorf("arrived at the metadata service from %v", arrived)
	}
}

// TestOffloadedTag: another data plane's program forwards pods' packets with two VLAN tags, of
// which the network card is to add the outer one.
func TestOffloadedTag(t *testing.T) {
	w := newUplinked(t)
	plane, err := hostrouting.Load(hostrouting.Config{Uplink: w.uplink.Index, Tags: []uint16{unix.ETH_P_8021Q, unix.ETH_P_8021AD}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plane.Close() }()
	port := w.index(t, "pod0")
	inNode(t, w.world, func() error { return hostrouting.Attach(port, plane) })
	if got := hooktest.Client(t, w.pod, w.podGroup, "AF_PACKET"); got != hooktest.Sent {
		t.Fatal(got)
	}
	eventually(t, "the packet arrives", func() (bool, error) { return len(w.tap.Sources()) == 1, nil })
	w.guard(t)
	w.drops(t, w.pod, w.podGroup, "AF_PACKET")
	if arrived := w.tap.Sources()[1:]; len(arrived) > 0 {
		t.Errorf("arrived at the metadata service from %v", arrived)
	}
}

// foreign loads another's program.
func foreign(t *testing.T, kind ebpf.ProgramType, at ebpf.AttachType, code asm.Instructions) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: kind, AttachType: at, License: "GPL", Instructions: code,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// returning is a program that returns a value.
func returning(value int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, value), asm.Return()}
}

// accept is a verdict of tc after which no other program runs.
const accept = 0

// TestReattach: Attach alone replaces the guards of the process before, on each uplink that still
// exists.
func TestReattach(t *testing.T) {
	for _, noTCX := range []bool{false, true} {
		t.Run(fmt.Sprintf("without tcx: %v", noTCX), func(t *testing.T) {
			w := newUplinked(t)
			w.hook.noTCX = noTCX
			testnet.Veth(t, w.node, "eth1", w.outside, "eth1")
			second := Uplink{Index: w.index(t, "eth1"), Ethernet: true}
			w.guard(t)
			inNode(t, w.world, func() error { return w.hook.Guard(second) })
			before := w.hook
			w.drops(t, w.node, w.podGroup, "AF_PACKET")
			w.remove(t, second)

			// The new one takes another group for the pods'.
			var err error
			if w.config.Pods, err = GroupID(w.systemGroup); err != nil {
				t.Fatal(err)
			}
			w.attach(t)
			w.drops(t, w.node, w.systemGroup, "AF_PACKET")
			if err := w.guarded(t); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(before.guardPin(second)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the pin of an interface that is gone: %v", err)
			}
		})
	}
}

// TestMoved: a guard that is no longer first is moved to the front, and what was in front of it
// stays.
func TestMoved(t *testing.T) {
	w := newUplinked(t)
	w.guard(t)
	if _, err := os.Stat(w.hook.guardPin(w.uplink)); err != nil {
		t.Skip("tcx needs Linux 6.6")
	}
	for range 2 { // also one that was moved before
		other := foreign(t, ebpf.SchedCLS, ebpf.AttachNone, returning(accept))
		inNode(t, w.world, func() error {
			l, err := link.AttachTCX(link.TCXOptions{
				Interface: w.uplink.Index, Program: other, Attach: ebpf.AttachTCXEgress, Anchor: link.Head(),
			})
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
			}
			return err
		})
		if err := w.guarded(t); err == nil || !strings.Contains(err.Error(), "another program") {
			t.Errorf("behind another program: %v", err)
		}
		w.guard(t)
		if err := w.guarded(t); err != nil {
			t.Error(err)
		}
		w.drops(t, w.node, w.podGroup, "AF_PACKET")
	}
	var all *link.QueryResult
	eventually(t, "one guard and two other programs", func() (bool, error) { // a link without a pin ends later
		err := w.node.Do(func() (err error) {
			all, err = link.QueryPrograms(link.QueryOptions{Target: w.uplink.Index, Attach: ebpf.AttachTCXEgress})
			return err
		})
		return len(all.Programs) == 3, err
	})
}

// TestUnfinishedMove: a successor removes the second guard of a move that its process did not
// finish.
func TestUnfinishedMove(t *testing.T) {
	w := newUplinked(t)
	w.guard(t)
	pin := w.hook.guardPin(w.uplink)
	if _, err := os.Stat(pin); err != nil {
		t.Skip("tcx needs Linux 6.6")
	}
	inNode(t, w.world, func() error {
		program, err := w.hook.newGuard(etherHeader)
		if err != nil {
			return err
		}
		defer func() { _ = program.Close() }()
		return attachFirst(w.uplink, program, pin+moving)
	})
	w.attach(t)
	if _, err := os.Stat(pin + moving); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin of the second guard: %v", err)
	}
	if err := w.guarded(t); err != nil {
		t.Error(err)
	}
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
