// What the kernel has.

package hooktest

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/testnet"
)

// Require is testnet.Require for tests of what captures requests inside pods. It also skips the
// test on a kernel that is too old for that.
func Require(t testing.TB) {
	t.Helper()
	testnet.Require(t)
	if TooOld(t) {
		t.Skip("needs Linux 5.14")
	}
}

// TooOld reports whether the kernel is too old to capture requests inside pods: before Linux 5.14
// a socket does not have the cookie of its network namespace.
func TooOld(t testing.TB) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(os.NewSyscallError("socket", err))
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return errors.Is(err, unix.ENOPROTOOPT)
}
