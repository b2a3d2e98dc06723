// Putting the guard on the node's uplinks by tcx (Linux 6.6).

package program

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
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

// Guard puts the guard on an uplink, before the programs of others. It replaces an earlier
// process's, and moves one that is no longer first, without a gap. Without tcx it is a filter of
// the qdisc clsact. Where it can be, from Linux 5.16 on, an nftables table stops what goes past tc.
func (h *Hook) Guard(u Uplink) error {
	h.uplinks.Lock()
	defer h.uplinks.Unlock()
	err := h.attachGuard(u)
	if errors.Is(err, ebpf.ErrNotSupported) {
		err = h.guardByFilter(u)
	}
	if err != nil || h.noEgress.Load() {
		return err
	}
	if err := h.guardRouteless(u); !errors.Is(err, errNoEgress) {
		return err
	}
	h.noEgress.Store(true)
	return nil
}

// attachGuard is Guard with tcx. Without tcx it returns ebpf.ErrNotSupported.
func (h *Hook) attachGuard(u Uplink) error {
	if h.noTCX {
		return ebpf.ErrNotSupported
	}
	there, err := h.updateGuard(u)
	if err != nil {
		return err
	}
	if !there {
		return attachFirst(u, h.guards[u.header()], h.guardPin(u))
	}
	if h.guardedByLink(u) == nil {
		return nil
	}
	return h.moveGuard(u)
}

// attachFirst puts a guard before all programs of an uplink.
func attachFirst(u Uplink, program *ebpf.Program, pin string) error {
	attached, err := link.AttachTCX(link.TCXOptions{
		Interface: u.Index, Program: program, Attach: ebpf.AttachTCXEgress, Anchor: link.Head(),
	})
	if err != nil {
		return explain(fmt.Errorf("attach guard to interface %d: %w", u.Index, err))
	}
	defer func() { _ = attached.Close() }() // the pin keeps it
	if err := attached.Pin(pin); err != nil {
		return explain(fmt.Errorf("pin guard of interface %d: %w", u.Index, err))
	}
	return nil
}

// moving ends the name of the pin of a program that takes another one's place.
const moving = "-new"

// moveGuard puts a second guard before all programs of an uplink, which takes the first one's pin.
// It is another program, as a program can be on an interface only once.
func (h *Hook) moveGuard(u Uplink) error {
	program, err := h.newGuard(u.header())
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()
	pin := h.guardPin(u)
	if err := detach(pin + moving); err != nil {
		return err
	}
	if err := attachFirst(u, program, pin+moving); err != nil {
		return err
	}
	if err := os.Rename(pin+moving, pin); err != nil { // the old one loses its last reference
		return fmt.Errorf("replace pin of the guard: %w", err)
	}
	return nil
}

// newGuard loads one more instance of the guard.
func (h *Hook) newGuard(header int32) (*ebpf.Program, error) {
	spec := guardSpec(h.config, header)
	for _, name := range []string{passedMap, earlierMap, countsMap} {
		if err := spec.Instructions.AssociateMap(name, h.all.Maps[name]); err != nil {
			return nil, fmt.Errorf("load guard: %w", err)
		}
	}
	program, err := ebpf.NewProgram(spec)
	if err != nil {
		return nil, explain(fmt.Errorf("load guard: %w", err))
	}
	return program, nil
}

// guardPin returns where an uplink's guard is pinned. Its name is all that a successor has to
// know of the uplink.
func (h *Hook) guardPin(u Uplink) string {
	return filepath.Join(h.pins, fmt.Sprintf("%s-%d", guardName(u.header()), u.Index))
}

// uplinkOf returns the uplink of a guard's pin.
func uplinkOf(pin string) (u Uplink, ok bool) {
	var header int32
	if n, err := fmt.Sscanf(pin, guard+"%d-%d", &header, &u.Index); n != 2 || err != nil {
		return u, false
	}
	u.Ethernet = header == etherHeader
	return u, !strings.HasSuffix(pin, moving)
}

// updateGuards replaces an earlier process's guards on all uplinks in place.
func (h *Hook) updateGuards() error {
	entries, err := os.ReadDir(h.pins)
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, e := range entries {
		u, ok := uplinkOf(e.Name())
		switch {
		case ok:
			_, err = h.updateGuard(u)
		case strings.HasSuffix(e.Name(), moving): // its process ended while it moved the guard
			err = detach(filepath.Join(h.pins, e.Name()))
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(h.updateFilters(), removeTables(false))
}

// updateGuard replaces the guard on an uplink in place, and reports whether there was one. The pin
// of an interface that is gone is removed.
func (h *Hook) updateGuard(u Uplink) (bool, error) {
	pin := h.guardPin(u)
	old, err := pinnedLink(pin)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = old.Close() }()
	on, err := onUplink(old, u)
	if err != nil {
		return false, err
	}
	if !on {
		return false, removePin(pin)
	}
	if err := old.Update(h.guards[u.header()]); err != nil {
		return false, explain(fmt.Errorf("replace guard of interface %d: %w", u.Index, err))
	}
	return true, nil
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

// Guarded returns an error if the guard is not on an uplink, or another program runs before it.
func (h *Hook) Guarded(u Uplink) error {
	err := h.guardedByLink(u)
	if errors.Is(err, os.ErrNotExist) {
		err = h.guardedByFilter(u)
	}
	if err != nil || h.noEgress.Load() {
		return err
	}
	return h.guardedRouteless(u)
}

// guardedByLink is Guarded for tcx. Without a pin it returns os.ErrNotExist.
func (h *Hook) guardedByLink(u Uplink) error {
	pinned, err := pinnedLink(h.guardPin(u))
	if err != nil {
		return err
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
