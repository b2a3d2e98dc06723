// Which interfaces are uplinks.

package uplinks

import (
	"net/netip"
	"slices"
)

// Uplink is a network interface by which packets can leave the node.
type Uplink struct {
	Index int
	Name  string
	// Ethernet means that packets have an Ethernet header.
	Ethernet bool
}

// device is a network interface as the kernel describes it.
type device struct {
	Uplink
	loopback bool
	// virtual means that a driver without hardware made it, such as veth or bridge.
	virtual bool
}

// route is a unicast route of any table.
type route struct {
	to   netip.Prefix
	outs []int // indexes of the interfaces
}

// choose returns the devices by which packets to the targets can leave the node, by index: every
// piece of hardware, because each virtual interface ends in one or inside of the node; and where a
// route leads, because the node may itself be in a network namespace and have virtual interfaces
// only.
func choose(devices []device, routes []route, targets []netip.Addr) (all []Uplink) {
	led := map[int]bool{}
	for _, r := range routes {
		if slices.ContainsFunc(targets, r.to.Contains) {
			for _, out := range r.outs {
				led[out] = true
			}
		}
	}
	for _, d := range devices {
		if !d.loopback && (!d.virtual || led[d.Index]) {
			all = append(all, d.Uplink)
		}
	}
	slices.SortFunc(all, func(a, b Uplink) int { return a.Index - b.Index })
	return all
}
