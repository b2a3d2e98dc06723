// A node's root file system: the machine's programs, read-only, and everything else the node's own.
// A node writes only below its own folder.

package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// persistent lists the folders of a node that survive its crash, as its disk would: the folder
// below Spec.Dir and the path in the node.
var persistent = []Bind{ //nolint:gochecknoglobals // a constant list
	{From: "containerd", To: "/var/lib/containerd"},
	{From: "kubelet", To: "/var/lib/kubelet"},
	{From: "cni", To: "/var/lib/cni"},
	{From: "log", To: "/var/log"},
}

// sysctls that the kubelet insists on. They belong to the whole machine, so the node is shown files
// with the required values instead.
var sysctls = map[string]string{ //nolint:gochecknoglobals // a constant table
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// enterRoot builds the root and moves the calling process, alone in its mount namespace, into it.
func enterRoot(s Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to the node: %w", err)
	}
	root := filepath.Join(s.Dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("make the node's root: %w", err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("make the node's root: %w", err)
	}
	if err := fill(s, root); err != nil {
		return fmt.Errorf("make the node's root: %w", err)
	}
	if err := unix.PivotRoot(root, filepath.Join(root, "old")); err != nil {
		return fmt.Errorf("enter the node's root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter the node's root: %w", err)
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	if err := os.Remove("/old"); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the node's mounts with its pods: %w", err)
	}
	return nil
}

// fill builds the node's file system in an empty root.
func fill(s Spec, root string) error {
	if err := makeFolders(root); err != nil {
		return err
	}
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if err := bindReadOnly("/"+name, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	for _, b := range persistent {
		from := filepath.Join(s.Dir, b.From)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return err
		}
		if err := bind(Bind{From: from, To: b.To}, root); err != nil {
			return err
		}
	}
	for _, b := range s.Binds {
		if err := bind(b, root); err != nil {
			return err
		}
	}
	return kernelMounts(s, root)
}

func makeFolders(root string) error {
	for _, d := range []string{"old", "proc", "sys", "dev", "run/lock", "run/netns", "root", "etc", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(root, "tmp"), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		return err
	}
	return os.Symlink("/run", filepath.Join(root, "var/run"))
}

// bindReadOnly shows one of the machine's top folders read-only, or copies the symbolic link in its
// place.
func bindReadOnly(from, to string) error {
	info, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	return bind(Bind{From: from, To: "/", ReadOnly: true}, to)
}

func bind(b Bind, root string) error {
	info, err := os.Stat(b.From)
	if err != nil {
		return err
	}
	to := filepath.Join(root, b.To)
	if info.IsDir() {
		err = os.MkdirAll(to, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(to), 0o755); err == nil {
		err = touch(to)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(b.From, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show %s as %s: %w", b.From, b.To, err)
	}
	if b.ReadOnly {
		if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("show %s read-only: %w", b.From, err)
		}
	}
	return nil
}

func touch(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// kernelMounts gives the node its own /proc, /sys and control groups. The devices are the
// machine's.
func kernelMounts(s Spec, root string) error {
	if err := bind(Bind{From: "/dev", To: "/dev"}, root); err != nil {
		return err
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("sysfs", filepath.Join(root, "sys"), "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := bpfMount(filepath.Join(root, "sys/fs/bpf")); err != nil {
		return err
	}
	if err := protectSysctls(filepath.Join(root, "proc/sys")); err != nil {
		return err
	}
	for name, value := range sysctls {
		file := filepath.Join(s.Dir, "sysctl", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		target := filepath.Join(root, "proc/sys", name)
		if _, err := os.Stat(target); err != nil {
			continue // not in this kernel
		}
		if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("show sysctl %s: %w", name, err)
		}
	}
	return nil
}

// protectSysctls makes those read-only that belong to the whole machine: network plugins change
// some, and one of them cannot be changed back before the machine reboots. Those below net are the
// node's own.
func protectSysctls(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "net" {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if err := bind(Bind{From: path, To: "/", ReadOnly: true}, path); err != nil {
			return err
		}
	}
	return nil
}

// bpfMount gives the node a BPF file system of its own. What is pinned in it ends with the node.
func bpfMount(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return nil //nolint:nilerr // a kernel without BPF has no such folder
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return fmt.Errorf("mount /sys/fs/bpf: %w", err)
	}
	return nil
}
