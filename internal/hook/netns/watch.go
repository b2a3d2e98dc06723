// Noticing namespaces that come and go.

package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Watch calls appeared for each file in a folder, now and whenever one is added, and vanished when
// one is removed, until ctx ends. Container runtimes keep pods' network namespaces in such a folder
// (containerd and CRI-O: /run/netns). It returns an error if the folder cannot be watched, or is
// gone.
//
// A runtime creates the file before it mounts the namespace on it, so Open may fail at first.
func Watch(ctx context.Context, folder string, appeared, vanished func(path string)) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch network namespaces: %w", os.NewSyscallError("inotify_init1", err))
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer func() { _ = events.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = events.Close() })
	defer stop()
	const what = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, folder, what); err != nil {
		return fmt.Errorf("watch network namespaces in %s: %w", folder, err)
	}
	w := &watcher{folder: folder, present: map[string]bool{}, appeared: appeared, vanished: vanished}
	if err := w.scan(); err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	for {
		n, err := events.Read(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch network namespaces in %s: %w", folder, err)
		}
		if err := w.handle(buffer[:n]); err != nil {
			return err
		}
	}
}

// watcher knows the files that are there.
type watcher struct {
	folder             string
	present            map[string]bool // by name
	appeared, vanished func(path string)
}

// scan compares what is known with the folder.
func (w *watcher) scan() error {
	entries, err := os.ReadDir(w.folder)
	if err != nil {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	gone := maps.Clone(w.present)
	for _, e := range entries {
		delete(gone, e.Name())
		w.add(e.Name())
	}
	for name := range gone {
		w.remove(name)
	}
	return nil
}

func (w *watcher) add(name string) {
	if !w.present[name] {
		w.present[name] = true
		w.appeared(filepath.Join(w.folder, name))
	}
}

func (w *watcher) remove(name string) {
	if w.present[name] {
		delete(w.present, name)
		w.vanished(filepath.Join(w.folder, name))
	}
}

var errFolderGone = errors.New("the folder was removed")

// handle applies the events that the kernel wrote to a buffer (inotify(7)).
func (w *watcher) handle(events []byte) error {
	for len(events) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(events[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00")
		events = events[end:]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			if err := w.scan(); err != nil {
				return err
			}
		case mask&(unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0:
			return fmt.Errorf("watch network namespaces in %s: %w", w.folder, errFolderGone)
		case mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0:
			w.remove(name)
		default:
			w.add(name)
		}
	}
	return nil
}
