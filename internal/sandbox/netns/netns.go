// Package netns creates, enters and removes named network namespaces: files below /run/netns, as
// `ip netns` keeps them.
//
// A namespace belongs to an OS thread, and Go moves goroutines between threads. Everything here
// that changes a thread's namespace runs on its own goroutine, which locks its thread and ends
// without unlocking it, so that the Go runtime discards the thread. No thread with a foreign
// namespace ever returns to the pool.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is the folder of named network namespaces, the same as that of `ip netns`.
const Dir = "/run/netns"

// Namespace is the name of a network namespace.
type Namespace string

// Path returns the file that keeps the namespace alive and that others enter it by.
func (n Namespace) Path() string { return filepath.Join(Dir, string(n)) }

// Create creates the namespace with a single device, a `lo` that is down. It fails if the name is
// taken.
func (n Namespace) Create() error {
	if err := share(); err != nil {
		return fmt.Errorf("create network namespace %s: %w", n, err)
	}
	f, err := os.OpenFile(n.Path(), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("create network namespace %s: %w", n, err)
	}
	_ = f.Close()
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", n.Path(), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind to %s: %w", n.Path(), err)
		}
		return nil
	})
	if err != nil {
		_ = os.Remove(n.Path())
		return fmt.Errorf("create network namespace %s: %w", n, err)
	}
	return nil
}

// share makes Dir a shared mount point, as `ip netns` does for its first namespace. Otherwise `ip
// netns` would later mount Dir over itself and hide the first mounts of existing namespaces, which
// could then not be deleted.
func share() error {
	switch err := os.Mkdir(Dir, 0o755); {
	case err == nil:
		if err := os.WriteFile(marker, nil, 0o600); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrExist):
		return err
	}
	lock, err := os.Open(Dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // two processes at once would mount it twice
		return fmt.Errorf("lock %s: %w", Dir, err)
	}
	err = unix.Mount("", Dir, "", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // EINVAL: not a mount point yet
		return err
	}
	if err := unix.Mount(Dir, Dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", Dir, err)
	}
	return unix.Mount("", Dir, "", unix.MS_SHARED|unix.MS_REC, "")
}

// marker records that Dir did not exist before the first namespace of this package.
const marker = "/run/podid-made-netns"

// removeDir removes Dir if this package created it and it is empty.
func removeDir() {
	if _, err := os.Stat(marker); err != nil {
		return
	}
	if entries, err := os.ReadDir(Dir); err != nil || len(entries) > 0 {
		return
	}
	_ = unix.Unmount(Dir, 0) // fails if it is not a mount point or another process was faster
	if os.Remove(Dir) == nil {
		_ = os.Remove(marker)
	}
}

// Delete removes the namespace's name, and Dir after the last one if it was created here. The
// kernel keeps the namespace until the last process inside has ended. A missing name is no error.
func (n Namespace) Delete() error {
	for {
		err := unix.Unmount(n.Path(), unix.MNT_DETACH)
		if err == nil {
			continue // mounted twice, by a crash between two steps
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		return fmt.Errorf("delete network namespace %s: unmount: %w", n, err)
	}
	if err := os.Remove(n.Path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete network namespace %s: %w", n, err)
	}
	removeDir()
	return nil
}

// Exists reports whether there is a namespace of that name that can be entered.
func (n Namespace) Exists() bool {
	var fs unix.Statfs_t
	return unix.Statfs(n.Path(), &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// Do runs f on a thread inside the namespace; a process that f starts is created there. f must not
// start goroutines that need the namespace, and must not keep the thread.
func (n Namespace) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := n.enter(); err != nil {
			return err
		}
		return f()
	})
}

// Dial opens a connection from inside the namespace. The address must be an IP address and a port,
// because names would be resolved with the machine's resolver.
func (n Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s in network namespace %s: %w", address, n, err)
	}
	if net.ParseIP(host) == nil {
		return nil, fmt.Errorf("dial %s in network namespace %s: not an IP address", address, n)
	}
	var conn net.Conn
	err = n.Do(func() error {
		d := net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1} // one address, one socket, created on this thread
		c, err := d.DialContext(ctx, network, address)
		conn = c
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial in network namespace %s: %w", n, err)
	}
	return conn, nil
}

// Processes lists the processes whose main thread is inside the namespace.
func (n Namespace) Processes() ([]int, error) {
	var want unix.Stat_t
	if err := unix.Stat(n.Path(), &want); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return nil, fmt.Errorf("look up network namespace %s: %w", n, err)
	}
	var own unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		return nil, fmt.Errorf("look up this process's network namespace: %w", err)
	}
	if want.Ino == own.Ino && want.Dev == own.Dev {
		return nil, fmt.Errorf("this command runs inside network namespace %s: run it from outside, for example from another terminal", n)
	}
	return processesIn(want)
}

// processesIn lists the processes whose main thread is in a network namespace.
func processesIn(want unix.Stat_t) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join("/proc", e.Name(), "ns/net"), &st) == nil && st.Ino == want.Ino && st.Dev == want.Dev {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// List returns the namespaces whose name starts with the prefix, including those that a crash left
// and that cannot be entered.
func List(prefix string) ([]Namespace, error) {
	matches, err := filepath.Glob(filepath.Join(Dir, prefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("list network namespaces %s*: %w", prefix, err)
	}
	names := make([]Namespace, 0, len(matches))
	for _, m := range matches {
		names = append(names, Namespace(filepath.Base(m)))
	}
	return names, nil
}

// enter moves the calling thread, which must be locked, into the namespace.
func (n Namespace) enter() error {
	fd, err := unix.Open(n.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n, err)
	}
	return nil
}

// Exec replaces the running program with another one inside the namespace. It returns only on
// failure; the program should then exit, because its thread may be in the wrong namespace.
func (n Namespace) Exec(path string, argv, env []string) error {
	runtime.LockOSThread()
	if err := n.enter(); err != nil {
		return err
	}
	if err := unix.Exec(path, argv, env); err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

// onOwnThread runs f on a thread that is discarded afterward.
func onOwnThread(f func() error) error {
	done := make(chan error, 1) // buffered: the goroutine must end even without a receiver
	go func() {
		runtime.LockOSThread() // never unlocked, see the package comment
		if unix.Gettid() == os.Getpid() {
			// The main thread never ends, and /proc shows its namespace as the process's: do not
			// change it.
			done <- onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}
