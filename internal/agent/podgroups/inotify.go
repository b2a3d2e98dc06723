// Events of folders.

package podgroups

import (
	"encoding/binary"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// watcher reports what appears in folders and vanishes from them.
type watcher interface {
	// add watches a folder. With unix.ENOSPC there are too many watches.
	add(folder string) (watch int32, err error)
	// remove ends a watch.
	remove(watch int32)
	// events returns the events, in order. It is closed after an error.
	events() <-chan []event
	close()
}

// event is an event of a watched folder, or of all (unix.IN_Q_OVERFLOW).
type event struct {
	watch int32
	mask  uint32 // of unix.IN_*
	name  string // in the folder
}

// inotify is the kernel's watcher.
//
// It is not fsnotify because that also asks for each write (IN_MODIFY and more; what narrows it is
// not exported in v1.9.0). The kernel counts a notification of cgroup.events or memory.events as a
// write, and a pod can cause a hundred a second and file in its own group and those above. They
// would wake the agent, and fill the one queue that all pods' events are in.
type inotify struct {
	fd     int
	file   *os.File
	queue  chan []event
	closed chan struct{}
}

func openInotify() (watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &inotify{fd: fd, file: os.NewFile(uintptr(fd), "inotify"), queue: make(chan []event), closed: make(chan struct{})}
	go w.read()
	return w, nil
}

func (w *inotify) add(folder string) (int32, error) {
	watch, err := unix.InotifyAddWatch(w.fd, folder, unix.IN_CREATE|unix.IN_DELETE|unix.IN_ONLYDIR)
	if err != nil {
		return 0, &os.PathError{Op: "watch", Path: folder, Err: err}
	}
	return int32(watch), nil //nolint:gosec // the kernel's type
}

func (w *inotify) remove(watch int32) {
	_, _ = unix.InotifyRmWatch(w.fd, uint32(watch)) //nolint:gosec // the kernel's type
}

func (w *inotify) events() <-chan []event { return w.queue }

// close closes the watcher. It may be called once, and add and remove not after it.
func (w *inotify) close() {
	close(w.closed)
	_ = w.file.Close()
	for range w.queue { // until read has ended
	}
}

// read passes on what the kernel writes until the file is closed.
func (w *inotify) read() {
	defer close(w.queue)
	buffer := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buffer)
		if err != nil {
			return
		}
		select {
		case w.queue <- parse(buffer[:n]):
		case <-w.closed:
			return
		}
	}
}

// parse reads events as in inotify(7).
func parse(buffer []byte) (events []event) {
	for len(buffer) >= unix.SizeofInotifyEvent {
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buffer[12:]))
		events = append(events, event{
			watch: int32(binary.NativeEndian.Uint32(buffer)), //nolint:gosec // the kernel's type
			mask:  binary.NativeEndian.Uint32(buffer[4:]),
			name:  strings.TrimRight(string(buffer[unix.SizeofInotifyEvent:end]), "\x00"),
		})
		buffer = buffer[end:]
	}
	return events
}
