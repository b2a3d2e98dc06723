// Putting the guard on the node's uplinks.

package program

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Uplink is a network interface through which the node sends.
type Uplink struct {
	Index int
	// Ethernet means that packets have an Ethernet header.
	Ethernet bool
}

func (u Uplink) header() int32 {
	if u.Ethernet {
		return etherHeader
	}
	return noHeader
}

// filterPriority and filterHandle identify the guard among the filters of an interface. The lowest
// priority runs first.
const (
	filterPriority = 1
	filterHandle   = 1
)

// Guard puts the guard on an uplink, before the programs of others, or replaces an earlier
// process's. Without tcx (Linux 6.6) it is a filter of the qdisc clsact.
func (h *Hook) Guard(u Uplink) error {
	program, pin := h.guards[u.header()], h.guardPin(u)
	old, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		defer func() { _ = old.Close() }()
		if on, err := onUplink(old, u); err == nil && on {
			if err := old.Update(program); err != nil {
				return explain(fmt.Errorf("replace guard of interface %d: %w", u.Index, err))
			}
			return nil
		}
		if err := old.Unpin(); err != nil {
			return fmt.Errorf("remove guard of an interface that is gone: %w", err)
		}
	}
	attached, err := link.AttachTCX(link.TCXOptions{Interface: u.Index, Program: program, Attach: ebpf.AttachTCXEgress, Anchor: link.Head()})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return guardByFilter(u, program)
	}
	if err != nil {
		return explain(fmt.Errorf("attach guard to interface %d: %w", u.Index, err))
	}
	defer func() { _ = attached.Close() }()
	if err := attached.Pin(pin); err != nil {
		return explain(fmt.Errorf("pin guard of interface %d: %w", u.Index, err))
	}
	return nil
}

func (h *Hook) guardPin(u Uplink) string {
	return filepath.Join(h.pins, fmt.Sprintf("%s-%d", guard, u.Index))
}

// onUplink reports whether a link is on the interface. The index of an interface that is gone is 0.
func onUplink(l link.Link, u Uplink) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("read link: %w", err)
	}
	on := info.TCX()
	return on != nil && int(on.Ifindex) == u.Index, nil
}

// guardByFilter puts the guard on an uplink as a filter.
func guardByFilter(u Uplink, program *ebpf.Program) error {
	attributes := netlink.QdiscAttrs{LinkIndex: u.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	err := netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: attributes, QdiscType: "clsact"})
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("add qdisc clsact to interface %d: %w", u.Index, err)
	}
	err = netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: u.Index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: filterPriority, Handle: filterHandle, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: filterName, DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("add guard to interface %d: %w", u.Index, err)
	}
	return nil
}

const filterName = "podid_guard"

// Guarded returns an error if the guard is not on an uplink, or another program runs before it.
func (h *Hook) Guarded(u Uplink) error {
	pinned, err := link.LoadPinnedLink(h.guardPin(u), nil)
	if errors.Is(err, os.ErrNotExist) {
		return guardedByFilter(u)
	}
	if err != nil {
		return fmt.Errorf("read pin of the guard: %w", err)
	}
	defer func() { _ = pinned.Close() }()
	info, err := pinned.Info()
	if err != nil {
		return fmt.Errorf("read link of the guard: %w", err)
	}
	attached, err := link.QueryPrograms(link.QueryOptions{Target: u.Index, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return explain(fmt.Errorf("list programs of interface %d: %w", u.Index, err))
	}
	return inFront(attached.Programs, info.Program, fmt.Sprintf("interface %d", u.Index))
}

// guardedByFilter is Guarded for the qdisc clsact.
func guardedByFilter(u Uplink) error {
	on, err := netlink.LinkByIndex(u.Index)
	if err != nil {
		return fmt.Errorf("read interface %d: %w", u.Index, err)
	}
	filters, err := netlink.FilterList(on, netlink.HANDLE_MIN_EGRESS)
	if err != nil {
		return fmt.Errorf("list filters of interface %d: %w", u.Index, err)
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, filterName) {
			return nil
		}
	}
	return fmt.Errorf("the guard is not on interface %d", u.Index)
}

// inFront returns an error unless a program is the first of those attached.
func inFront(attached []link.AttachedProgram, id ebpf.ProgramID, where string) error {
	for i, p := range attached {
		if p.ID != id {
			continue
		}
		if i > 0 {
			return fmt.Errorf("another program is first on %s: ID %d, see bpftool prog show id %[2]d", where, attached[0].ID)
		}
		return nil
	}
	return fmt.Errorf("podid's program is not on %s", where)
}
