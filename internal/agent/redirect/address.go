// The agent's own address: a /32 on lo, known to this node only.

package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ensureAddress puts the address on lo, and tells whether it had to. An interface other than lo that has it
// is an error: somebody else uses the address.
func ensureAddress(ip netip.Addr) (added bool, err error) {
	present, err := hasAddress(ip)
	if err != nil || present {
		return false, err
	}
	lo, err := netlink.LinkByIndex(loIndex)
	if err != nil {
		return false, fmt.Errorf("look up lo: %w", err)
	}
	// EEXIST: another agent was quicker.
	if err := netlink.AddrAdd(lo, onLo(ip)); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, explain(fmt.Errorf("add address %s to lo: %w", ip, err))
	}
	return true, nil
}

func hasAddress(ip netip.Addr) (bool, error) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return false, explain(fmt.Errorf("list the node's addresses: %w", err))
	}
	present := false
	for _, a := range all {
		if !a.IP.Equal(ip.AsSlice()) {
			continue
		}
		if a.LinkIndex != loIndex {
			return false, fmt.Errorf("agent address %s: already on interface %d of this node, in use by somebody else: "+
				"choose another one of 169.254.0.0/16", ip, a.LinkIndex)
		}
		ones, _ := a.Mask.Size()
		present = present || ones == ip.BitLen()
	}
	return present, nil
}

// deleteAddress takes the address away; a missing one is no error.
func deleteAddress(ip netip.Addr) error {
	lo, err := netlink.LinkByIndex(loIndex)
	if err != nil {
		return fmt.Errorf("look up lo: %w", err)
	}
	if err := netlink.AddrDel(lo, onLo(ip)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return explain(fmt.Errorf("delete address %s from lo: %w", ip, err))
	}
	return nil
}

// onLo is the address as it stands on lo. Scope host: it is no source address for anything that leaves.
func onLo(ip netip.Addr) *netlink.Addr {
	return &netlink.Addr{
		IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())},
		Scope: int(netlink.SCOPE_HOST),
	}
}
