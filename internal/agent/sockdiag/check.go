// The self-test.

package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// errNoModule is what the kernel's "no such socket" means for a socket that exists.
var errNoModule = errors.New("sock_diag does not know a connection that exists: the kernel module tcp_diag is missing; " +
	"load it (modprobe tcp_diag) and have it loaded at boot (/etc/modules-load.d), " +
	"or use a node image that has it; without it, pods can be intercepted on the wire only")

// Check asks about a connection of its own, over lo of this process's network namespace, and
// returns an error with a remedy if the kernel cannot say whose it is. The part of sock_diag that
// knows TCP may be a module, which the kernel loads by itself if the node has it. If not, each
// socket seems not to exist, and each caller would be refused.
func Check(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return fmt.Errorf("test sock_diag: %w", os.NewSyscallError("socket", err))
	}
	socket := os.NewFile(uintptr(fd), "sock_diag")
	d, err := New(socket)
	if err != nil {
		_ = socket.Close()
		return fmt.Errorf("test sock_diag: %w", err)
	}
	defer func() { _ = d.Close() }()
	if err := check(ctx, d.Group); err != nil {
		return fmt.Errorf("test sock_diag: %w", err)
	}
	return nil
}

func check(ctx context.Context, group func(from, to netip.AddrPort) (uint64, error)) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", l.Addr().String())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = group(c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort())
	if errors.Is(err, ErrNoSocket) {
		return errNoModule
	}
	return err
}
