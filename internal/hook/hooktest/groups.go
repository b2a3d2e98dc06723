// Package hooktest gives kernel tests control groups of their own, and clients that connect from
// them in every way. Nothing of it outlives a test that is killed, except empty control groups,
// which the next test removes.
package hooktest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Unified returns where control groups of version 2 are mounted. A machine without them fails the
// test.
func Unified(t testing.TB) string {
	t.Helper()
	for _, at := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(at, "cgroup.controllers")); err == nil {
			return at
		}
	}
	t.Fatal("these kernel tests need control groups of version 2: boot with systemd.unified_cgroup_hierarchy=1")
	return ""
}

// groupPrefix begins the names of tests' control groups. A test holds a lock on its group, which
// the kernel releases when the test's process ends in any way.
const groupPrefix = "podid-hooktest-"

// Groups makes a control group for the test, at the top, and removes it and all below it when the
// test ends. It removes those of tests that were killed. Nothing is ever attached above it.
func Groups(t testing.TB) string {
	t.Helper()
	root := Unified(t)
	removeStale(root)
	top, lock, err := lockedGroup(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer func() { _ = lock.Close() }()
		if err := removeLeft(top); err != nil {
			t.Error(err)
		}
	})
	return top
}

// lockedGroup makes a control group and locks it. Another test may take it for a stale one, and
// lock and remove it first: then lockedGroup makes another.
func lockedGroup(root string) (string, *os.File, error) {
	for {
		top, err := os.MkdirTemp(root, groupPrefix)
		if err != nil {
			return "", nil, err
		}
		lock, err := lockGroup(top)
		if err == nil {
			return top, lock, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
			return "", nil, fmt.Errorf("lock the new control group %s: %w", top, err)
		}
	}
}

// lockGroup locks a control group that exists, or fails at once.
func lockGroup(path string) (*os.File, error) {
	group, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(group.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		_ = group.Close()
		return nil, err
	}
	return group, nil
}

// removeStale removes the control groups of tests whose process has ended. What is still busy stays
// for the next test.
func removeStale(root string) {
	found, err := filepath.Glob(filepath.Join(root, groupPrefix+"*"))
	if err != nil {
		return
	}
	for _, path := range found {
		if lock, err := lockGroup(path); err == nil {
			_ = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0) // clients of the test
			_ = removeGroups(path)
			_ = lock.Close()
		}
	}
}

// leftTime is how long a process may take to end whose parent was killed.
const leftTime = 20 * time.Second

// removeLeft removes a control group and all below it, once no process is left there. The probe of
// an agent that was killed ends by itself, a moment after the agent.
func removeLeft(top string) error {
	var err error
	_ = wait.PollUntilContextTimeout(context.Background(), time.Millisecond, leftTime, true, func(context.Context) (bool, error) {
		err = removeGroups(top)
		return !errors.Is(err, unix.EBUSY), nil
	})
	return err
}

// removeGroups removes a control group and all below it.
func removeGroups(top string) error {
	var all []string
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	for _, path := range slices.Backward(all) {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// Group makes a control group below another and returns its folder.
func Group(t testing.TB, above string, names ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{above}, names...)...)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
