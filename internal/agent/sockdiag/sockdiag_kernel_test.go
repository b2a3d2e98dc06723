package sockdiag

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/testnet"
)

// ownGroup returns the ID of this process's control group of version 2.
func ownGroup(t *testing.T) uint64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(strings.TrimSpace(line), "0::"); found {
			id, err := program.GroupID(filepath.Join(hooktest.Unified(t), path))
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
	}
	t.Fatal("this process is in no control group of version 2")
	return 0
}

// TestGroup: the kernel reports the control group of a socket, to many at a time.
func TestGroup(t *testing.T) {
	testnet.Require(t)
	n, want := testnet.New(t), ownGroup(t)
	var diag *Diag
	var l net.Listener
	if err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		if err != nil {
			return err
		}
		if diag, err = New(os.NewFile(uintptr(fd), "diag")); err != nil {
			return err
		}
		l, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = diag.Close(), l.Close() }()
	at := l.Addr().(*net.TCPAddr).AddrPort()

	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			var c net.Conn
			err := n.Do(func() (err error) { c, err = net.Dial("tcp4", at.String()); return err })
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			from := c.LocalAddr().(*net.TCPAddr).AddrPort()
			for range 100 {
				if got, err := diag.Group(from, at); err != nil || got != want {
					t.Errorf("group %d, want %d, %v", got, want, err)
					return
				}
			}
			// The kernel's check is of both ends.
			if _, err := diag.Group(from, netip.AddrPortFrom(at.Addr(), at.Port()+1)); !errors.Is(err, ErrNoSocket) {
				t.Errorf("other port: %v", err)
			}
		})
	}
	callers.Wait()
}
