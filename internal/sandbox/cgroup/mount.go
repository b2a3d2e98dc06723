// Setup of a node's control group namespace, from inside it.

package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// leaf is the group of the node's own programs on a v2 machine. The node's top group delegates
// controllers to the pods, and a group that delegates must not contain processes.
const leaf = "init"

// Mount mounts the machine's hierarchies below /sys/fs/cgroup, as the calling process's control
// group namespace shows them. On v2 it also moves the process to a leaf and delegates the
// controllers.
func (l Layout) Mount() error {
	const top = "/sys/fs/cgroup"
	if l.Mode == V2 {
		if err := mountFS("cgroup2", top, ""); err != nil {
			return err
		}
		return settle(top)
	}
	if err := mountFS("tmpfs", top, "mode=755"); err != nil {
		return err
	}
	for _, h := range l.Hierarchies {
		dir := filepath.Join(top, filepath.Base(h.Mount))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("mount control groups: %w", err)
		}
		if h.V2 {
			if err := mountFS("cgroup2", dir, ""); err != nil {
				return err
			}
			continue
		}
		if err := mountFS("cgroup", dir, mountOptions(h.Options)); err != nil {
			return err
		}
		if err := alias(top, filepath.Base(h.Mount), h.Options); err != nil {
			return err
		}
	}
	return nil
}

// mountOptions returns the options that select a v1 hierarchy: its controllers, or its name if it
// has none.
func mountOptions(options []string) string {
	s := strings.Join(options, ",")
	if strings.HasPrefix(s, "name=") {
		return "none," + s
	}
	return s
}

// alias links controllers that share a hierarchy ("cpu,cpuacct") under each name, as systemd does.
func alias(top, folder string, options []string) error {
	for _, o := range options {
		if o == folder || strings.HasPrefix(o, "name=") {
			continue
		}
		if err := os.Symlink(folder, filepath.Join(top, o)); err != nil {
			return fmt.Errorf("mount control groups: %w", err)
		}
	}
	return nil
}

func settle(top string) error {
	dir := filepath.Join(top, leaf)
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make control group: %w", err)
	}
	if err := Join([]string{dir}); err != nil {
		return err
	}
	return delegate(top)
}

func mountFS(fs, dir, options string) error {
	if err := unix.Mount(fs, dir, fs, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mount %s (%s) at %s: %w", fs, options, dir, err)
	}
	return nil
}
