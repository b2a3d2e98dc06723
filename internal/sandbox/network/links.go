// Creating links, addresses and routes over netlink, inside the namespaces only.

package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/podid-io/podid/internal/sandbox/netns"
)

// Up creates the switch and all nodes' links. After an error the caller removes what exists with
// Down.
func (p Plan) Up() error {
	if err := p.upSwitch(); err != nil {
		return fmt.Errorf("make the sandbox's switch: %w", err)
	}
	for _, n := range p.Nodes {
		if err := p.UpNode(n); err != nil {
			return err
		}
	}
	return nil
}

// Down removes every namespace of the sandbox, and with them their devices. It also finds those of
// an earlier plan with more nodes.
func Down(sandbox string) error {
	all, err := Namespaces(sandbox)
	if err != nil {
		return err
	}
	for _, n := range all {
		if err := n.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// Namespaces lists the existing namespaces of the sandbox, and none of a sandbox whose name has the
// same beginning.
func Namespaces(sandbox string) ([]netns.Namespace, error) {
	all, err := netns.List(Prefix(sandbox))
	if err != nil {
		return nil, err
	}
	own := regexp.MustCompile("^" + regexp.QuoteMeta(Prefix(sandbox)) + `(switch|node-[0-9]+)$`)
	return slices.DeleteFunc(all, func(n netns.Namespace) bool { return !own.MatchString(string(n)) }), nil
}

func (p Plan) upSwitch() error {
	if err := p.Switch.Create(); err != nil {
		return err
	}
	return p.Switch.Do(func() error {
		if err := up("lo"); err != nil {
			return err
		}
		if err := address("lo", p.Metadata); err != nil {
			return err
		}
		bridge := &netlink.Bridge{LinkAttrs: attrs(Bridge)}
		bridge.HardwareAddr = hardware(p.API.Addr())
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		for _, a := range []netip.Prefix{p.API, p.Azure} {
			if err := address(Bridge, a); err != nil {
				return err
			}
		}
		if err := up(Bridge); err != nil {
			return err
		}
		return forward()
	})
}

// UpNode creates the node's namespace and connects it to the switch. It first removes what an
// earlier run of the node left.
func (p Plan) UpNode(n Node) error {
	steps := []func() error{
		n.Namespace.Delete,
		n.Namespace.Create,
		func() error { return p.Switch.Do(func() error { return p.plug(n) }) },
		func() error { return n.Namespace.Do(func() error { return p.configure(n) }) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("connect %s: %w", n.Name, err)
		}
	}
	return nil
}

// plug creates the link with its far end inside the node's namespace, so that no device ever
// appears on the machine.
func (p Plan) plug(n Node) error {
	if old, err := netlink.LinkByName(n.Port); err == nil {
		if err := netlink.LinkDel(old); err != nil {
			return fmt.Errorf("remove the old port %s: %w", n.Port, err)
		}
	}
	fd, err := os.Open(n.Namespace.Path())
	if err != nil {
		return err
	}
	defer func() { _ = fd.Close() }()
	veth := &netlink.Veth{
		LinkAttrs: attrs(n.Port), PeerName: "eth0", PeerNamespace: netlink.NsFd(fd.Fd()), PeerHardwareAddr: hardware(n.IP.Addr()),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add port %s: %w", n.Port, err)
	}
	bridge, err := netlink.LinkByName(Bridge)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	port, err := netlink.LinkByName(n.Port)
	if err != nil {
		return fmt.Errorf("find port %s: %w", n.Port, err)
	}
	if err := netlink.LinkSetMaster(port, bridge); err != nil {
		return fmt.Errorf("put port %s on the bridge: %w", n.Port, err)
	}
	if err := up(n.Port); err != nil {
		return err
	}
	return route(n.Pods, n.IP.Addr())
}

func (p Plan) configure(n Node) error {
	for _, dev := range []string{"lo", "eth0"} {
		if err := up(dev); err != nil {
			return err
		}
	}
	if err := address("eth0", n.IP); err != nil {
		return err
	}
	if err := route(netip.MustParsePrefix("0.0.0.0/0"), p.API.Addr()); err != nil {
		return err
	}
	for _, other := range p.Nodes {
		if other.Index == n.Index {
			continue
		}
		if err := route(other.Pods, other.IP.Addr()); err != nil {
			return err
		}
	}
	return forward()
}

// hardware returns the hardware address of the device with an address, which is always the same, as
// a machine's is. A bridge without one of its own takes the lowest of its ports': when a node
// reboots, the others would send to the old one for half a minute.
func hardware(a netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{0x02, 0}, a.AsSlice()...) // locally administered
}

func attrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

func up(device string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", device, err)
	}
	return nil
}

func address(device string, a netip.Prefix) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(a)}); err != nil {
		return fmt.Errorf("give %s to %s: %w", a, device, err)
	}
	return nil
}

func route(to netip.Prefix, via netip.Addr) error {
	r := &netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("route %s via %s: %w", to, via, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// forward enables packet forwarding in the namespace of the calling thread: /proc/sys/net shows the
// values of the network namespace of the thread that opens the file.
func forward() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	return nil
}
