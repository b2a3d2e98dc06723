// The test binary: tests, or a client.

package hooktest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The variables of the environment that change what a test binary does.
const (
	waysVariable         = "PODID_TEST_WAYS"         // makes it a client, which connects in these ways
	targetVariable       = "PODID_TEST_TARGET"       // is what the client asks for
	ownGroupsVariable    = "PODID_TEST_OWN_GROUPS"   // gives the client a control group namespace of its own
	unprivilegedVariable = "PODID_TEST_UNPRIVILEGED" // takes the client's capabilities
	mountsVariable       = "PODID_TEST_MOUNTS"       // it has a mount namespace of its own
)

// Main runs the tests of a package, or the client that Client starts. Kernel tests run in a mount
// namespace of their own, so that their mounts end with them in any case.
func Main(m *testing.M) {
	if ways := os.Getenv(waysVariable); ways != "" {
		if err := client(strings.Split(ways, separator)); err != nil {
			panic(err)
		}
		return
	}
	if way := os.Getenv(holdVariable); way != "" {
		hold(way)
		return
	}
	if os.Getenv("PODID_TEST_KERNEL") == "1" && os.Geteuid() == 0 && os.Getenv(mountsVariable) == "" {
		panic(ownMounts())
	}
	m.Run() // the testing package exits with its result
}

// ownMounts starts this program again, as the same process, in a mount namespace of its own. It
// returns only if that fails.
func ownMounts() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), mountsVariable+"=own"))
}

// client connects in several ways, one after the other, and writes the results.
func client(ways []string) error {
	runtime.LockOSThread() // capabilities and namespaces are the thread's
	if os.Getenv(ownGroupsVariable) != "" {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return fmt.Errorf("make a control group namespace: %w", err)
		}
	}
	if os.Getenv(unprivilegedVariable) != "" {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return fmt.Errorf("drop capabilities: %w", err)
		}
	}
	for _, way := range ways {
		fmt.Print(run(way), separator)
	}
	return nil
}
