// The namespace and the interfaces of a probe.

package wireprobe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// Interface is the name of the probe's interface on the node: one that no network plugin is known
	// to take for a pod's. There can be only one, so that it is the lock of probes, too.
	Interface = "podid-probe"
	inside    = "probe"
	loopback  = "lo"

	// busyTime is how long another probe may take. What is there after that is left over.
	busyTime     = 6 * time.Second
	busyInterval = 50 * time.Millisecond
	// upTime is how long an interface may take to be ready to send. Twice that, connectTime and
	// answerTime are less than busyTime: a probe that lives is not taken for one left over.
	upTime     = 500 * time.Millisecond
	upInterval = 2 * time.Millisecond
	// oneHop is how far packets of a probe get.
	oneHop = 1
)

// network is the network of a probe: the thread's namespace, and an interface in the node's.
type network struct {
	node, own *netlink.Handle
	namespace *os.File
	outer     netlink.Link
}

// newNetwork moves this thread to a new network namespace, and joins it with the one before.
func newNetwork(ctx context.Context, c Config) (*network, error) {
	n := &network{}
	if err := n.make(ctx, c); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *network) make(ctx context.Context, c Config) (err error) {
	if n.node, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("make a network namespace: %w: it needs CAP_SYS_ADMIN", err)
		}
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if n.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return fmt.Errorf("open the new network namespace: %w", err)
	}
	if n.own, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	if err := n.join(ctx); err != nil {
		return err
	}
	lo, err1 := n.own.LinkByName(loopback)
	inner, err2 := n.own.LinkByName(inside)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("find the interfaces of the new network namespace: %w", err)
	}
	// Neither end has an address of the node, or asks for one of the other's: both know it. The route
	// inside is for all addresses: the kernel drops ICMP errors of the node whose source has none,
	// with rp_filter 1 and 2, which a new namespace has from the machine's first one.
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	err = errors.Join(
		// A program that refuses pods lets their connects arrive there.
		n.own.LinkSetUp(lo),
		enable(n.own, inner, n.outer, c.Metadata.Addr(), everywhere, c.Source),
		enable(n.node, n.outer, inner, c.Source, host(c.Source), netip.Addr{}),
	)
	if err == nil {
		err = errors.Join(awaitUp(ctx, n.own, inner), awaitUp(ctx, n.node, n.outer))
	}
	if err != nil {
		return fmt.Errorf("set up the network of a probe: %w", err)
	}
	return nil
}

// join adds the pair of interfaces. It waits for another probe, and removes what one has left.
func (n *network) join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, busyTime)
	defer cancel()
	err := n.add()
	for ; errors.Is(err, unix.EEXIST); err = n.add() {
		select {
		case <-time.After(busyInterval):
			continue
		case <-ctx.Done():
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = errors.Join(n.removeLeft(), n.add())
		}
		break
	}
	if err != nil {
		return fmt.Errorf("add interface %s: %w", Interface, err)
	}
	if n.outer, err = n.node.LinkByName(Interface); err != nil {
		return fmt.Errorf("find interface %s: %w", Interface, err)
	}
	return nil
}

// The hardware addresses of the ends, locally administered. Where the kernel chooses one, udev
// replaces it a little later, and packets go to the one before.
//
//nolint:gochecknoglobals // constants
var (
	outerAddress = net.HardwareAddr{0x02, 'p', 'o', 'd', 'i', 1}
	innerAddress = net.HardwareAddr{0x02, 'p', 'o', 'd', 'i', 2}
)

func (n *network) add() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = Interface, outerAddress
	return n.node.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: inside, PeerHardwareAddr: innerAddress, PeerNamespace: netlink.NsFd(int(n.namespace.Fd())),
	})
}

// removeLeft removes the interface of a probe that has not ended.
func (n *network) removeLeft() error {
	left, err := n.node.LinkByName(Interface)
	if err != nil {
		return err
	}
	if left.Type() != (&netlink.Veth{}).Type() {
		return fmt.Errorf("it is a %s, which is not podid's", left.Type())
	}
	return n.node.LinkDel(left)
}

// enable sets an end up, with a route by an address at the other end. source is this end's own
// address, if it has one.
func enable(h *netlink.Handle, end, other netlink.Link, by netip.Addr, to netip.Prefix, source netip.Addr) error {
	index := end.Attrs().Index
	const none = 1                         // IN6_ADDR_GEN_MODE_NONE: the end sends nothing over IPv6
	_ = h.LinkSetIP6AddrGenMode(end, none) // fails without IPv6
	if err := h.LinkSetUp(end); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	route := &netlink.Route{LinkIndex: index, Dst: ipNet(to), Scope: netlink.SCOPE_LINK, Hoplimit: oneHop}
	if source.IsValid() {
		if err := h.AddrAdd(end, &netlink.Addr{IPNet: ipNet(host(source))}); err != nil {
			return fmt.Errorf("add its address: %w", err)
		}
		route.Src = source.AsSlice()
	}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("add its route: %w", err)
	}
	neighbor := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: by.AsSlice(), HardwareAddr: other.Attrs().HardwareAddr}
	if err := h.NeighSet(neighbor); err != nil {
		return fmt.Errorf("add its neighbor: %w", err)
	}
	return nil
}

// awaitUp waits until an end can send. The kernel drops what it sends before, which would be sent
// again after a second.
func awaitUp(ctx context.Context, h *netlink.Handle, end netlink.Link) error {
	ctx, cancel := context.WithTimeout(ctx, upTime)
	defer cancel()
	for {
		now, err := h.LinkByIndex(end.Attrs().Index)
		if err != nil {
			return fmt.Errorf("read its state: %w", err)
		}
		if now.Attrs().OperState == netlink.OperUp {
			return nil
		}
		select {
		case <-time.After(upInterval):
		case <-ctx.Done():
			return fmt.Errorf("wait until it is up: %w", ctx.Err())
		}
	}
}

// host returns the prefix with one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// close removes the interfaces. The kernel would do that with the namespace, a little later.
func (n *network) close() {
	if n.outer != nil {
		_ = n.node.LinkDel(n.outer)
	}
	if n.own != nil {
		n.own.Close()
	}
	if n.node != nil {
		n.node.Close()
	}
	if n.namespace != nil {
		_ = n.namespace.Close()
	}
}
