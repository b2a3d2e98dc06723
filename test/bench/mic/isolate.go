// The benchmark's network namespace and the processes in it.

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/test/bench/measure"
)

// isolated is the environment variable that marks a restarted program with its own network
// namespace. Its value is the original namespace.
const isolated = "PODID_BENCH_OUTSIDE"

// isolate restarts this program in a network namespace with only a loopback device. Nothing that a
// benchmark or the product does can leave the machine, and all default ports are free. In the
// restarted program it returns.
func isolate() error {
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
	runtime.LockOSThread() // the namespace applies to this thread, and must stay the program's
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := syscall.Exec(program, os.Args, append(os.Environ(), isolated+"="+here)); err != nil {
		return fmt.Errorf("start %s in a network namespace: %w", program, err)
	}
	return nil
}

// ownCPU returns the CPU time of this process, its children and their children in seconds.
func ownCPU() float64 {
	used := 0.0
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} { // children that have ended
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			used += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	for _, p := range others() {
		used += p.cpu
	}
	return used
}

// used is a program's CPU time in seconds.
type used struct {
	name string
	cpu  float64
}

// others returns the other running programs in this network namespace.
func others() []used {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil
	}
	files, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil
	}
	var all []used
	for _, file := range files {
		there, err := os.Readlink(file)
		dir := filepath.Dir(filepath.Dir(file))
		pid, err2 := strconv.Atoi(filepath.Base(dir))
		if err != nil || err2 != nil || there != here || pid == os.Getpid() {
			continue
		}
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		cpu, err2 := measure.CPUOf(pid)
		if err == nil && err2 == nil {
			all = append(all, used{string(name[:len(name)-1]), cpu})
		}
	}
	return all
}
