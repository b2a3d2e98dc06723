// Connections that were open before there was a guard.
//
// The guard lets sockets of pods on the node's network pass that connect4 has marked. It cannot
// have marked those that were connected before it, so they pass by their cookies, which the kernel
// never gives to another socket.

package program

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxEarlier bounds those connections. The metadata service lets a whole machine have a few
// requests at once. Beyond the bound they are cut, and their clients connect again after their
// timeout.
const maxEarlier = 1024

// noteEarlier lets the guard pass the connections to the services that are open in the node's
// network namespace, unless there is a guard already. It is called once connect4 marks new ones.
func (h *Hook) noteEarlier() error {
	guarded, err := h.anyGuard()
	if err != nil || guarded {
		return err
	}
	noted := h.all.Maps[earlierMap]
	old, err := keys[uint8](noted)
	if err != nil {
		return fmt.Errorf("read connections that were open before the guard: %w", err)
	}
	for _, cookie := range old { // of a guard that was removed
		if err := noted.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget connections that were open before the guard: %w", err)
		}
	}
	cookies, err := connectedTo(append([]netip.AddrPort{h.config.Metadata}, h.config.Closed...))
	if err != nil {
		return err
	}
	for _, cookie := range cookies[:min(len(cookies), maxEarlier)] {
		if err := noted.Put(cookie, uint8(1)); err != nil {
			return fmt.Errorf("note connections that are open before the guard: %w", err)
		}
	}
	return nil
}

// anyGuard reports whether an earlier process has put a guard on any uplink.
func (h *Hook) anyGuard() (bool, error) {
	entries, err := os.ReadDir(h.pins)
	if err != nil {
		return false, fmt.Errorf("list pins: %w", err)
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), guard) }) {
		return true, nil
	}
	filters, err := guardFilters()
	return len(filters) > 0, err
}

// connectedTo returns the cookies of this network namespace's TCP sockets that are connected to one
// of the services.
func connectedTo(services []netip.AddrPort) (cookies []uint64, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} { // the latter also for IPv4-mapped addresses
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list TCP sockets: %w", err)
		}
		for _, s := range sockets {
			to, _ := netip.AddrFromSlice(s.ID.Destination)
			if slices.Contains(services, netip.AddrPortFrom(to.Unmap(), s.ID.DestinationPort)) {
				cookies = append(cookies, uint64(s.ID.Cookie[0])|uint64(s.ID.Cookie[1])<<32)
			}
		}
	}
	return cookies, nil
}
