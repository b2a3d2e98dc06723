// Putting the guard on the node's uplinks as a filter of the qdisc clsact, before Linux 6.6.
//
// Filters have no order but their priority. Within a priority the newest is first, and one that is
// replaced keeps its place. Priority 1 is the first, and other data planes use it as well: Cilium's
// filter has priority 1 and handle 1. So the guard has handles of its own there.

package program

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	clsact         = "clsact"
	filterPriority = 1
	filterHandle   = 0x706f6469 // the first of those that the guard may have: "podi"
)

// filterRemedy is for what keeps the guard from its place.
const filterRemedy = "if it has a qdisc ingress (tc qdisc show), use clsact instead; " +
	"if it has an egress filter of priority 1 that is not bpf for all protocols (tc filter show), " +
	"give that another priority"

// filterName is how podid knows its filters. The size of the header is in it.
func filterName(header int32) string { return "podid_" + guardName(header) }

// guardByFilter puts the guard before all filters of an uplink.
func (h *Hook) guardByFilter(u Uplink) error {
	if err := addQdisc(u); err != nil {
		return err
	}
	filters, err := egressFilters(u.Index)
	if err != nil {
		return err
	}
	handle, put := freeHandle(filters), netlink.FilterAdd // in front of all of its priority
	if len(filters) > 0 && isGuard(filters[0], u.header()) {
		handle, put = filters[0].Attrs().Handle, netlink.FilterReplace
	}
	if err := h.putFilter(put, u, handle); err != nil {
		return err
	}
	for _, f := range guardsAmong(filters) { // those that are no longer first
		if f.Attrs().Handle == handle {
			continue
		}
		if err := deleteFilter(f); err != nil {
			return err
		}
	}
	return nil
}

// addQdisc gives an uplink the qdisc clsact, unless it has it.
func addQdisc(u Uplink) error {
	attributes := netlink.QdiscAttrs{
		LinkIndex: u.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}
	err := netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: attributes, QdiscType: clsact})
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("add qdisc clsact to interface %d: %w", u.Index, err)
	}
	return nil
}

// putFilter adds or replaces a filter with the guard.
func (h *Hook) putFilter(put func(netlink.Filter) error, u Uplink, handle uint32) error {
	err := put(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: u.Index, Parent: netlink.HANDLE_MIN_EGRESS,
			Priority: filterPriority, Handle: handle, Protocol: unix.ETH_P_ALL,
		},
		Fd: h.guards[u.header()].FD(), Name: filterName(u.header()), DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("add guard to interface %d: %w: %s", u.Index, err, filterRemedy)
	}
	return nil
}

func deleteFilter(f netlink.Filter) error {
	if err := netlink.FilterDel(f); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove guard of interface %d: %w", f.Attrs().LinkIndex, err)
	}
	return nil
}

// egressFilters returns the filters at an interface's egress in the order in which they run.
func egressFilters(index int) ([]netlink.Filter, error) {
	on := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	filters, err := netlink.FilterList(on, netlink.HANDLE_MIN_EGRESS)
	if err != nil {
		return nil, fmt.Errorf("list filters of interface %d: %w", index, err)
	}
	// Other chains run only when a filter goes there.
	return slices.DeleteFunc(filters, func(f netlink.Filter) bool {
		chain := f.Attrs().Chain
		return chain != nil && *chain != 0
	}), nil
}

// isGuard reports whether a filter is a guard for packets with a link-layer header of that size.
func isGuard(f netlink.Filter, header int32) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && b.Name == filterName(header)
}

// guardsAmong returns those of the filters that are guards.
func guardsAmong(filters []netlink.Filter) (guards []netlink.Filter) {
	for _, f := range filters {
		if isGuard(f, etherHeader) || isGuard(f, noHeader) {
			guards = append(guards, f)
		}
	}
	return guards
}

// freeHandle returns a handle that no filter of the guard's priority has.
func freeHandle(filters []netlink.Filter) uint32 {
	handle := uint32(filterHandle)
	taken := func(f netlink.Filter) bool { return f.Attrs().Priority == filterPriority && f.Attrs().Handle == handle }
	for slices.ContainsFunc(filters, taken) {
		handle++
	}
	return handle
}

// guardedByFilter is Guarded for the qdisc clsact.
func (h *Hook) guardedByFilter(u Uplink) error {
	filters, err := egressFilters(u.Index)
	if err != nil {
		return err
	}
	own, err := h.guards[u.header()].Info()
	if err != nil {
		return fmt.Errorf("read guard: %w", err)
	}
	id, _ := own.ID()
	where := fmt.Sprintf("interface %d", u.Index)
	for i, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); !ok || ebpf.ProgramID(b.Id) != id { //nolint:gosec // an ID of the kernel
			continue
		}
		if i > 0 {
			return fmt.Errorf("another filter runs before podid's guard on %s: %s", where, describe(filters[0]))
		}
		return nil
	}
	return fmt.Errorf("podid's guard is not on %s", where)
}

// describe names a filter as tc does.
func describe(f netlink.Filter) string {
	text := fmt.Sprintf("%s, priority %d, handle %#x", f.Type(), f.Attrs().Priority, f.Attrs().Handle)
	if b, ok := f.(*netlink.BpfFilter); ok {
		text += fmt.Sprintf(", %s, see bpftool prog show id %d", b.Name, b.Id)
	}
	return text
}

// guardFilters returns the guards among the filters of all interfaces.
func guardFilters() ([]netlink.Filter, error) {
	qdiscs, err := netlink.QdiscList(nil)
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	var guards []netlink.Filter
	for _, q := range qdiscs {
		if q.Type() != clsact {
			continue
		}
		filters, err := egressFilters(q.Attrs().LinkIndex)
		if err != nil {
			return nil, err
		}
		guards = append(guards, guardsAmong(filters)...)
	}
	return guards, nil
}

// updateFilters replaces an earlier process's filters on all uplinks in place.
func (h *Hook) updateFilters() error {
	guards, err := guardFilters()
	for _, f := range guards {
		u := Uplink{Index: f.Attrs().LinkIndex, Ethernet: isGuard(f, etherHeader)}
		err = errors.Join(err, h.putFilter(netlink.FilterReplace, u, f.Attrs().Handle))
	}
	return err
}

// removeFilters removes the guards from all uplinks. The qdiscs stay, which others may use.
func removeFilters() error {
	guards, err := guardFilters()
	for _, f := range guards {
		err = errors.Join(err, deleteFilter(f))
	}
	return err
}
