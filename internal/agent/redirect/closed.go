// What pods never reach, for others that close it, too.

package redirect

import "net/netip"

// WireServer returns the addresses and ports of Azure's WireServer that BlockWireServer closes.
func WireServer() (all []netip.AddrPort) {
	for _, port := range wireServerPorts() {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{168, 63, 129, 16}), port))
	}
	return all
}
