// Which port of a bridge an address is behind. Many network plugins attach all pods of a node to
// one bridge, so a socket shows the bridge for each of them. The kernel knows the port: the
// neighbor table has the hardware address that it sent the handshake to, and the forwarding
// database has the port of that hardware address.

package attest

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxInterfaces bounds the cache of interface kinds. A node has a few hundred interfaces, and the
// kernel never reuses an index.
const maxInterfaces = 4096

// behind returns the interface that an address is behind: the given one, or the port if that is a
// bridge. It returns 0 if the port is unknown.
func (o *Origins) behind(index int, a netip.Addr) int {
	if index == 0 || !o.isBridge(index) {
		return index
	}
	hardware, err := neighbor(index, a)
	if err != nil {
		return 0
	}
	port, err := bridgePort(index, hardware)
	if err != nil {
		return 0
	}
	return port
}

func (o *Origins) isBridge(index int) bool {
	o.mu.RLock()
	is, known := o.bridges[index]
	o.mu.RUnlock()
	if known {
		return is
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return false // most likely deleted: not worth caching
	}
	is = l.Type() == "bridge"
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.bridges) >= maxInterfaces {
		clear(o.bridges)
	}
	o.bridges[index] = is
	return is
}

// neighborRequest returns a request for one entry of a neighbor table.
func neighborRequest(family uint8, index int, attributes ...*nl.RtAttr) *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	request.AddData(&netlink.Ndmsg{Family: family, Index: uint32(index)}) //nolint:gosec // an index from the kernel
	for _, a := range attributes {
		request.AddData(a)
	}
	return request
}

var errNoEntry = errors.New("no entry")

// neighbor returns the hardware address of an IP address. It reads one entry, not the whole table,
// which needs Linux 5.0.
func neighbor(index int, a netip.Addr) ([]byte, error) {
	family := uint8(unix.AF_INET)
	if a.Is6() {
		family = unix.AF_INET6
	}
	messages, err := neighborRequest(family, index, nl.NewRtAttr(netlink.NDA_DST, a.AsSlice())).Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		found, err := netlink.NeighDeserialize(m)
		if err == nil && len(found.HardwareAddr) > 0 {
			return found.HardwareAddr, nil
		}
	}
	return nil, errNoEntry
}

// bridgePort returns the port of a bridge that a hardware address is behind.
func bridgePort(bridge int, hardware []byte) (int, error) {
	messages, err := neighborRequest(unix.AF_BRIDGE, 0,
		nl.NewRtAttr(netlink.NDA_LLADDR, hardware), nl.NewRtAttr(netlink.NDA_MASTER, nl.Uint32Attr(uint32(bridge))), //nolint:gosec // an index from the kernel
	).Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		found, err := netlink.NeighDeserialize(m)
		if err == nil && found.LinkIndex > 0 {
			return found.LinkIndex, nil
		}
	}
	return 0, errNoEntry
}
