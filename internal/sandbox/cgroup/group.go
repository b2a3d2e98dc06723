// Creating, joining and removing control groups.

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// required lists the controllers without which the kubelet refuses to start.
var required = []string{"cpu", "cpuset", "memory", "pids"} //nolint:gochecknoglobals // a constant list

// Base returns the folder of a sandbox in one hierarchy; each node has a folder below it.
//
// On v1 and in the v2 tree of a hybrid machine it is below the group of the process that starts the
// sandbox, so that limits of that group also apply to the sandbox. On v2 it is below the top,
// because a group with processes cannot delegate controllers.
func (l Layout) Base(h Hierarchy, sandbox string) string {
	if l.Mode == V2 {
		return filepath.Join(h.Mount, "podid-"+sandbox)
	}
	return filepath.Join(h.Mount, h.Own, "podid-"+sandbox)
}

// Bases lists the sandbox's folders, one per hierarchy.
func (l Layout) Bases(sandbox string) []string {
	var out []string
	for _, h := range l.Hierarchies {
		out = append(out, l.Base(h, sandbox))
	}
	return out
}

// Make creates the sandbox's and the node's groups and returns the node's folders.
func (l Layout) Make(sandbox, node string) ([]string, error) {
	var out []string
	for _, h := range l.Hierarchies {
		base := l.Base(h, sandbox)
		dir := filepath.Join(base, node)
		for _, d := range []string{base, dir} {
			if err := l.makeGroup(h, d); err != nil {
				return nil, err
			}
		}
		out = append(out, dir)
	}
	return out, nil
}

// makeGroup creates a group with the resources of its parent.
func (l Layout) makeGroup(h Hierarchy, dir string) error {
	if l.Mode == V2 {
		if err := delegate(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make control group: %w", err)
	}
	if slices.Contains(h.Options, "cpuset") {
		return inheritCPUs(dir)
	}
	return nil
}

// Join moves the calling process into the groups.
func Join(dirs []string) error {
	for _, d := range dirs {
		if err := os.WriteFile(filepath.Join(d, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return fmt.Errorf("join control group: %w", err)
		}
	}
	return nil
}

// delegate enables the controllers of a v2 group for its children.
func delegate(dir string) error {
	enabled, err := words(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return fmt.Errorf("delegate control group %s: %w", dir, err)
	}
	offered, err := words(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("delegate control group %s: %w", dir, err)
	}
	for _, c := range required {
		if !slices.Contains(offered, c) {
			return fmt.Errorf("control group %s has no %s controller: have it delegated, for example with `systemd-run --scope -p Delegate=yes`, or boot without it in cgroup_disable", dir, c)
		}
	}
	var missing []string
	for _, c := range append([]string{"io", "hugetlb"}, required...) {
		if slices.Contains(offered, c) && !slices.Contains(enabled, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	err = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(strings.Join(missing, " ")), 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("control group %s has processes in it and cannot delegate controllers: in a container, move them to a group below first (mkdir %[1]s/init; for p in $(cat %[1]s/cgroup.procs); do echo $p > %[1]s/init/cgroup.procs; done)", dir)
	}
	if err != nil {
		return fmt.Errorf("delegate control group %s: %w", dir, err)
	}
	return nil
}

// inheritCPUs fills a new v1 cpuset from its parent. An empty one accepts no process.
func inheritCPUs(dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), f))
		if err != nil {
			return fmt.Errorf("inherit %s: %w", f, err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0); err != nil {
			return fmt.Errorf("inherit %s: %w", f, err)
		}
	}
	return nil
}

// Processes lists the processes in a group and below it.
func Processes(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		list, err := words(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil
			}
			return err
		}
		for _, w := range list {
			if pid, err := strconv.Atoi(w); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list control group %s: %w", dir, err)
	}
	return pids, nil
}

// Remove removes a group and all groups below it. The kernel releases a group a moment after its
// last process has ended, and v1 has no notification for it, so removal is retried until the limit.
func Remove(dir string, limit time.Duration) error {
	deadline := time.After(limit)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := removeOnce(dir)
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-deadline:
			return fmt.Errorf("remove control group: %w", err)
		}
	}
}

func removeOnce(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) { // children before parents
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "rmdir", Path: d, Err: err}
		}
	}
	return nil
}

func words(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(b)), nil
}
