// Starting a node's pid 1, and running programs in a node.

package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/sandbox/cgroup"
)

// goFD is the file descriptor on which pid 1 waits for its starter to leave the node's control
// groups.
const goFD = 3

// Launch starts a node's pid 1 from a process inside the node's network namespace, and returns its
// process ID on the machine. The caller must be about to exit. It joins the node's control groups,
// so that the new control group namespace has its root there; on v2 the node can delegate
// controllers only when the caller is gone.
func Launch(self, specFile string) (int, error) {
	spec, err := ReadSpec(specFile)
	if err != nil {
		return 0, err
	}
	if err := cgroup.Join(spec.Groups); err != nil {
		return 0, err
	}
	// The read end goes to pid 1. The write end stays open here, and nowhere else, until this
	// process exits.
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("launch node: %w", err)
	}
	defer runtime.KeepAlive(w)
	if err := os.MkdirAll(filepath.Dir(spec.Log), 0o755); err != nil {
		return 0, fmt.Errorf("launch node: %w", err)
	}
	log, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, fmt.Errorf("launch node: %w", err)
	}
	cmd := exec.Command(self, "sandbox", "node-init", specFile) //nolint:noctx // it outlives this process
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log // not this process's, whose reader waits for its end
	cmd.ExtraFiles = []*os.File{r}
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWPID
	if !spec.Plain {
		flags |= unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: uintptr(flags)}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("launch node: %w", err)
	}
	return cmd.Process.Pid, nil
}

// Exec runs a program inside a running node, given the ID of its pid 1, with the caller's terminal.
func Exec(pid int, argv []string) error {
	cmd := exec.Command("/usr/bin/env", argv...) //nolint:noctx // ends with the terminal; env looks in the node's PATH
	cmd.Env = Env()
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return Run(pid, cmd)
}

// Run runs a prepared command inside a running node.
func Run(pid int, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			if err := join(pid); err != nil {
				return err
			}
			if err := cmd.Start(); err != nil {
				return fmt.Errorf("run in the node: %w", err)
			}
			return cmd.Wait()
		}()
	}()
	return <-done
}

// join moves the calling thread into all namespaces of the process. The mount namespace comes last
// because /proc is the node's after it.
func join(pid int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns to a mount namespace requires an own working directory
		return fmt.Errorf("enter node: %w", err)
	}
	kinds := []struct {
		name string
		flag int
	}{
		{"net", unix.CLONE_NEWNET},
		{"uts", unix.CLONE_NEWUTS},
		{"ipc", unix.CLONE_NEWIPC},
		{"cgroup", unix.CLONE_NEWCGROUP},
		{"pid", unix.CLONE_NEWPID},
		{"mnt", unix.CLONE_NEWNS},
	}
	for _, k := range kinds {
		fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/"+k.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("enter node: %w", err)
		}
		err = unix.Setns(fd, k.flag)
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("enter the node's %s namespace: %w", k.name, err)
		}
	}
	return nil
}

// Env returns the environment of every program on a node.
func Env() []string {
	return []string{
		"PATH=" + BinDir + ":" + CiliumDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", // its clang before the machine's
		"HOME=/root",
		"LANG=C.UTF-8",
		"LD_LIBRARY_PATH=" + LibDir,
	}
}
