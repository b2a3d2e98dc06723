package program

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/testnet"
)

// tables returns the names of the node's nftables tables of the guard's kind.
func (w *uplinked) tables(t *testing.T) (names []string) {
	t.Helper()
	inNode(t, w.world, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		all, err := conn.ListTablesOfFamily(nftables.TableFamilyNetdev)
		for _, table := range all {
			names = append(names, table.Name)
		}
		return err
	})
	slices.Sort(names)
	return names
}

// TestSpoiledTable: a table that another program emptied or removed is found, and written again.
func TestSpoiledTable(t *testing.T) {
	w := newUplinked(t)
	w.egress = true
	w.attach(t)
	w.guard(t)
	if w.hook.noEgress.Load() {
		t.Skip(errNoEgress)
	}
	for _, spoil := range []func(*nftables.Conn){
		func(c *nftables.Conn) { c.FlushTable(tableOf(w.uplink)) },
		func(c *nftables.Conn) { c.DelTable(tableOf(w.uplink)) },
	} {
		inNode(t, w.world, func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			spoil(conn)
			return conn.Flush()
		})
		if err := w.guarded(t); err == nil || !strings.Contains(err.Error(), tableOf(w.uplink).Name) {
			t.Errorf("spoiled: %v", err)
		}
		w.guard(t)
		if err := w.guarded(t); err != nil {
			t.Error(err)
		}
	}
}

// TestTable: each uplink has a table, except one that passes on packets of another interface. That
// of an interface that is gone is removed.
func TestTable(t *testing.T) {
	w := newUplinked(t)
	w.egress = true
	w.attach(t)
	testnet.Veth(t, w.node, "eth1", w.outside, "eth1")
	testnet.Veth(t, w.node, "port", w.outside, "port")
	w.node.Bridge(t, "bridge", "port")
	second := Uplink{Index: w.index(t, "eth1"), Ethernet: true}
	port := Uplink{Index: w.index(t, "port"), Ethernet: true}
	w.guard(t)
	if w.hook.noEgress.Load() {
		t.Skip(errNoEgress)
	}
	inNode(t, w.world, func() error {
		for _, u := range []Uplink{second, port} {
			if err := w.hook.Guard(u); err != nil {
				return err
			}
			if err := w.hook.Guarded(u); err != nil {
				return err
			}
		}
		return nil
	})
	one, two := tableOf(w.uplink).Name, tableOf(second).Name
	if got, want := w.tables(t), []string{one, two}; !slices.Equal(got, want) {
		t.Errorf("tables %q, want %q", got, want)
	}
	w.remove(t, second)
	w.attach(t)
	if got, want := w.tables(t), []string{one}; !slices.Equal(got, want) {
		t.Errorf("tables %q, want %q", got, want)
	}
}

// TestForbidden: where nftables may not be used, the guard does without.
func TestForbidden(t *testing.T) {
	w := newUplinked(t)
	inNode(t, w.world, func() error { // on a thread that ends
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		if err := w.hook.guardRouteless(w.uplink); !errors.Is(err, errNoEgress) {
			t.Errorf("make a table: %v", err)
		}
		return removeTables(true)
	})
}

// TestXDP: what a pod sends by AF_XDP from its own network is stopped. What a host-network pod
// sends leaves, since neither tc nor nftables sees it, but only with NET_RAW. docs/threat-model.md
// has to say so as long as this passes.
func TestXDP(t *testing.T) {
	w := newUplinked(t)
	w.egress = true
	w.attach(t)
	w.guard(t)
	w.drops(t, w.pod, w.podGroup, hooktest.XDP)
	w.leave(t, w.node, hooktest.XDP)
	want := "socket: " + unix.EPERM.Error()
	if got := hooktest.Unprivileged(t, w.node, w.podGroup, hooktest.XDP)[hooktest.XDP]; got != want {
		t.Errorf("without NET_RAW: %q", got)
	}
}

// TestNeighbor: the node may ask for the metadata service's hardware address, which is a packet
// without a route that names the service. Its own address here makes it look like TCP, see
// dropRouteless.
func TestNeighbor(t *testing.T) {
	w := newUplinked(t)
	w.egress = true
	w.attach(t)
	w.guard(t)
	own := net.IPv4(10, 0, 0, unix.IPPROTO_TCP)
	w.node.Address(t, "eth0", own.String()+"/24")
	inNode(t, w.world, func() error {
		return netlink.RouteAdd(&netlink.Route{
			LinkIndex: w.uplink.Index, Src: own, Scope: netlink.SCOPE_LINK,
			Dst: &net.IPNet{IP: net.IPv4(169, 254, 169, 254), Mask: net.CIDRMask(32, 32)},
		})
	})
	if got := hooktest.Client(t, w.node, w.systemGroup, "connect"); got != "metadata service" {
		t.Errorf("got %q", got)
	}
}
