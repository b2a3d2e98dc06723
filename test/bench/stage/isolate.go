// Package stage is where the benchmarks of the programs play: a network namespace without a way
// out, the programs in it, an API server with its etcd, and the emulated Azure.
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

// isolated says in the environment that the program was started anew, in a namespace of its own.
// Its value is the namespace it was in before.
const isolated = "PODID_BENCH_OUTSIDE"

// Isolate starts this program anew in a network namespace that has nothing but a loopback device:
// nothing that a benchmark or the product does can leave the machine, and all default ports are
// free. The second time it returns.
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
	runtime.LockOSThread() // the namespace is this thread's, and stays the program's
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := syscall.Exec(program, os.Args, append(os.Environ(), isolated+"="+here)); err != nil {
		return fmt.Errorf("start %s in a network namespace: %w", program, err)
	}
	return nil
}
