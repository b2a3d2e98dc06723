// Reading interfaces and routes from the kernel.

package uplinks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// list returns the uplinks. Interfaces and routes that come and go can interrupt it, see List.
func list(targets []netip.Addr) ([]Uplink, error) {
	devices, err := devices()
	if err != nil {
		return nil, err
	}
	routes, err := routes()
	if err != nil {
		return nil, err
	}
	return choose(devices, routes, targets), nil
}

// Gone reports whether there is no interface with the index of an uplink any more.
func Gone(u Uplink) bool {
	_, err := netlink.LinkByIndex(u.Index)
	return errors.As(err, &netlink.LinkNotFoundError{})
}

// hardware is what netlink calls interfaces that no virtual driver made.
const hardware = "device"

func devices() ([]device, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	all := make([]device, 0, len(links))
	for _, l := range links {
		a := l.Attrs()
		all = append(all, device{
			Uplink:   Uplink{Index: a.Index, Name: a.Name, Ethernet: a.EncapType == "ether"},
			loopback: a.Flags&net.FlagLoopback != 0, virtual: l.Type() != hardware,
		})
	}
	return all, nil
}

func routes() ([]route, error) {
	list, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var all []route
	for i := range list {
		r := &list[i]
		if r.Type != unix.RTN_UNICAST {
			continue
		}
		out := route{to: prefix(r.Dst), outs: []int{r.LinkIndex}}
		for _, hop := range r.MultiPath {
			out.outs = append(out.outs, hop.LinkIndex)
		}
		all = append(all, out)
	}
	return all, nil
}

// prefix returns the destination of a route; nil is the default route.
func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}
