// Which port of a bridge an address is behind.

package server

import (
	"errors"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ports finds the interface behind a bridge. Many network plugins put all pods of
// a node behind one: then the bridge is all that a socket tells, and it is the
// same for every pod. The kernel knows more: the hardware address that it has
// just sent the handshake's answer to (the neighbour table), and the port which
// that address is behind (the forwarding database).
type ports struct {
	mu      sync.RWMutex
	bridges map[int]bool // by number of the interface: whether it is one
}

// maxLinks bounds what is remembered of interfaces: a node has a few hundred, and
// numbers are not used again.
const maxLinks = 4096

func newPorts() *ports { return &ports{bridges: map[int]bool{}} }

// behind returns the interface that the address is behind: the link itself, or
// the port when that is a bridge; 0 when it is one and the kernel does not say.
func (p *ports) behind(link int, a netip.Addr) int {
	if link == 0 || !p.bridge(link) {
		return link
	}
	hardware, err := neighbour(link, a)
	if err != nil {
		return 0
	}
	port, err := forwarding(link, hardware)
	if err != nil {
		return 0
	}
	return port
}

func (p *ports) bridge(link int) bool {
	p.mu.RLock()
	is, known := p.bridges[link]
	p.mu.RUnlock()
	if known {
		return is
	}
	l, err := netlink.LinkByIndex(link)
	if err != nil {
		return false // gone, most likely; nothing to remember
	}
	is = l.Type() == "bridge"
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.bridges) >= maxLinks {
		clear(p.bridges)
	}
	p.bridges[link] = is
	return is
}

// ndRequest asks for one entry of a table of neighbours.
func ndRequest(family uint8, link int, attributes ...*nl.RtAttr) *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	request.AddData(&netlink.Ndmsg{Family: family, Index: uint32(link)}) //nolint:gosec // the kernel's own number
	for _, a := range attributes {
		request.AddData(a)
	}
	return request
}

var errNoAnswer = errors.New("the kernel gave no answer")

// neighbour returns the hardware address of an address on a link (one entry, not
// the table: Linux 5.0).
func neighbour(link int, a netip.Addr) ([]byte, error) {
	family := uint8(unix.AF_INET)
	if a.Is6() {
		family = unix.AF_INET6
	}
	messages, err := ndRequest(family, link, nl.NewRtAttr(netlink.NDA_DST, a.AsSlice())).Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		found, err := netlink.NeighDeserialize(m)
		if err == nil && len(found.HardwareAddr) > 0 {
			return found.HardwareAddr, nil
		}
	}
	return nil, errNoAnswer
}

// forwarding returns the port of a bridge that a hardware address is behind.
func forwarding(bridge int, hardware []byte) (int, error) {
	messages, err := ndRequest(unix.AF_BRIDGE, 0,
		nl.NewRtAttr(netlink.NDA_LLADDR, hardware), nl.NewRtAttr(netlink.NDA_MASTER, nl.Uint32Attr(uint32(bridge))), //nolint:gosec // as above
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
	return 0, errNoAnswer
}
