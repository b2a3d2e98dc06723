// Removing the programs.

package program

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf/link"
)

// Remove removes the guards, then everything that is pinned in the folder, and the folder: pods
// reach the metadata service again. It is called in the node's own network namespace.
func Remove(pins string) error {
	// An error there must not keep connect4, which refuses pods, in place.
	return errors.Join(removeTables(true), removeFilters(), removePins(pins))
}

func removePins(pins string) error {
	entries, err := os.ReadDir(pins)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	slices.SortStableFunc(entries, func(a, b os.DirEntry) int { return removal(a.Name()) - removal(b.Name()) })
	for _, e := range entries {
		path := filepath.Join(pins, e.Name())
		if removal(e.Name()) < removalOfMaps {
			err = detach(path)
		} else {
			err = removePin(path)
		}
		if err != nil {
			return err
		}
	}
	if err := os.Remove(pins); err != nil {
		return fmt.Errorf("remove folder for pins: %w", err)
	}
	return nil
}

// The order of removal. A guard without connect4 would drop the packets of host-network pods, whose
// sockets nothing marks any more.
const (
	removalOfGuards = iota
	removalOfConnects
	removalOfMaps
)

func removal(pin string) int {
	switch {
	case strings.HasPrefix(pin, guard):
		return removalOfGuards
	case strings.HasPrefix(pin, connect4), strings.HasPrefix(pin, connect6):
		return removalOfConnects
	}
	return removalOfMaps
}

// detach detaches a program at once and removes its pin. Without its pin alone the kernel would
// take it off later, in no order.
func detach(pin string) error {
	pinned, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		err = pinned.Detach()
		_ = pinned.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) { // without CAP_BPF, the pin alone
		return explain(fmt.Errorf("detach %s: %w", pin, err))
	}
	return removePin(pin)
}

func removePin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}
