// Whether another agent answers.

package redirect

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAcceptsLate: a process that accepts a second late is there. One that is gone is known at
// once.
func TestAcceptsLate(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer func() { _ = file.Close() }()
	// With a backlog of 0 one connection waits. The kernel drops the first packet of the next one,
	// which is sent again after a second.
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	first, err := net.Dial("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	// Long before it is sent again: the time after that is three seconds, which is too late.
	free := time.AfterFunc(100*time.Millisecond, func() {
		if c, err := l.Accept(); err == nil {
			_ = c.Close()
		}
	})
	defer free.Stop()
	if !accepts(t.Context(), at) {
		t.Error("a process that accepts late passes for gone")
	}
	_, _ = l.Close(), file.Close()
	if accepts(t.Context(), at) {
		t.Error("a process that is gone accepts")
	}
}
