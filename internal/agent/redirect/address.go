// The agent's own address: a /32 on lo, which only this node knows.

package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ensureAddress adds the address to lo if it is missing, and reports whether it was. It fails if
// another interface has the address, because another program uses it then.
func ensureAddress(ip netip.Addr) (added bool, err error) {
	present, err := hasAddress(ip)
	if err != nil || present {
		return false, err
	}
	lo, err := netlink.LinkByIndex(loIndex)
	if err != nil {
		return false, fmt.Errorf("look up lo: %w", err)
	}
	// EEXIST: another agent has added it meanwhile.
	if err := netlink.AddrAdd(lo, onLo(ip)); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, explain(fmt.Errorf("add address %s to lo: %w", ip, err))
	}
	return true, nil
}

// hasAddress reports whether lo has the address. It fails if another interface has it.
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
			return false, fmt.Errorf("agent address %s: in use on interface %d of this node: "+
				"choose another one of 169.254.0.0/16", ip, a.LinkIndex)
		}
		ones, _ := a.Mask.Size()
		present = present || ones == ip.BitLen()
	}
	return present, nil
}

// deleteAddress deletes the address from lo. A missing address is no error.
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

// onLo returns the address as netlink adds it to lo. Because of scope host, it is never the source
// address of a packet that leaves the node.
func onLo(ip netip.Addr) *netlink.Addr {
	return &netlink.Addr{
		IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())},
		Scope: int(netlink.SCOPE_HOST),
	}
}
