// Package generation decides which of several holders on a node may publish its listeners.
//
// While a DaemonSet is rolled with maxSurge, two holders run at once. The older one has to publish
// until the newer one's agent has all sockets, or pods that start meanwhile find no listener. From
// then on it must not: it is about to end, and its listeners with it. If the newer one ends first,
// the older one has to publish again.
//
// So a plain lock that one of them holds is not enough: the older one would have to release it at
// the right moment. Instead each holder that is ready locks one byte of a file that they share, at
// the offset of its own generation. A holder may publish while no byte above its own is locked.
// The kernel drops the locks of a process that ends, however it ends, so none is left behind.
package generation

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Lock is one holder's place among those of a node. It must not be used concurrently.
type Lock struct {
	file  *os.File
	mine  int64 // offset of the generation's byte
	ready bool  // the byte is locked
}

// change is the byte that is locked while a holder changes what is published or becomes ready, so
// that a holder does not publish anything on the strength of an answer that has just become wrong.
const change = 0

// Open opens the file that the holders of a node share, and creates it if it does not exist. The
// generation is the time since the machine started, so a later process has a higher one. The file
// must not be removed while a holder runs.
func Open(path string) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of holders: %w", err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("read time since start: %w", err)
	}
	return &Lock{file: file, mine: now.Nano()}, nil
}

// Close gives up the place.
func (l *Lock) Close() error { return l.file.Close() }

// SetReady records whether this holder can publish. One that is not ready does not keep older ones
// from publishing.
func (l *Lock) SetReady(ready bool) error {
	if ready == l.ready {
		return nil
	}
	kind := int16(unix.F_UNLCK)
	if ready {
		kind = unix.F_WRLCK
	}
	err := l.alone(func() error { return l.set(unix.F_OFD_SETLK, kind, l.mine) })
	if err != nil {
		return err
	}
	l.ready = ready
	return nil
}

// ErrNewer means that another holder publishes.
var ErrNewer = errors.New("a newer holder publishes")

// Do runs f, which changes what is published, or returns ErrNewer. For a holder that is not ready,
// every ready one is newer.
func (l *Lock) Do(f func() error) error {
	return l.alone(func() error {
		newer, err := l.newer()
		switch {
		case err != nil:
			return err
		case newer:
			return ErrNewer
		}
		return f()
	})
}

// newer reports whether a holder is ready that goes before this one.
func (l *Lock) newer() (bool, error) {
	others := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: change + 1} // to the end
	if l.ready {
		others.Start = l.mine + 1
	}
	if err := l.fcntl(unix.F_OFD_GETLK, &others); err != nil {
		return false, fmt.Errorf("look for newer holders: %w", err)
	}
	return others.Type != unix.F_UNLCK, nil
}

// alone runs f while no other holder changes anything.
func (l *Lock) alone(f func() error) error {
	if err := l.set(unix.F_OFD_SETLKW, unix.F_WRLCK, change); err != nil {
		return err
	}
	err := f()
	return errors.Join(err, l.set(unix.F_OFD_SETLK, unix.F_UNLCK, change))
}

// set locks or unlocks a byte.
func (l *Lock) set(command int, kind int16, at int64) error {
	byteAt := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: at, Len: 1}
	if err := l.fcntl(command, &byteAt); err != nil {
		return fmt.Errorf("lock byte %d of %s: %w", at, l.file.Name(), err)
	}
	return nil
}

// fcntl locks by open file, not by process, so it does not matter what else the process closes.
func (l *Lock) fcntl(command int, lock *unix.Flock_t) error {
	for {
		err := unix.FcntlFlock(l.file.Fd(), command, lock)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
