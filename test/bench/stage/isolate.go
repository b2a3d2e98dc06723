// Running a benchmark in a network namespace and a mount namespace of its own.

package stage

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isolated is the environment variable that marks a restarted program with its own network
// namespace. Its value is the original namespace.
const isolated = "PODID_BENCH_OUTSIDE"

// Isolate restarts this program in a network namespace with only a loopback device. Nothing that a
// benchmark or the product does can leave the machine, and all default ports are free. What it
// mounts is seen by its own programs only and ends with them. In the restarted program it returns.
func Isolate() error {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("look up the network namespace: %w", err)
	}
	outside := os.Getenv(isolated)
	if outside == "" {
		return enter(here)
	}
	if outside == here {
		return errors.New("make a network namespace: it is the one it was before")
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("switch on the loopback device: %w", err)
	}
	return nil
}

func enter(here string) error {
	if os.Geteuid() != 0 {
		return errors.New("the benchmarks make a network namespace: run them as root, for example with sudo")
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	runtime.LockOSThread() // the namespaces apply to this thread, and must stay the program's
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a network namespace and a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separate the mounts from the machine's: %w", err)
	}
	if err := syscall.Exec(program, os.Args, append(os.Environ(), isolated+"="+here)); err != nil {
		return fmt.Errorf("start %s in a network namespace: %w", program, err)
	}
	return nil
}
