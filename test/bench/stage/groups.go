// What the kernel keeps of the benchmarks' own pods: control groups, and pins of BPF programs.

package stage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/sandbox/cgroup"
)

// groupPrefix begins the names of benchmarks' control groups; the ID of the process follows.
const groupPrefix = "podid-bench-"

// groupTime is how long the kernel may take to remove the processes of a group.
const groupTime = 5 * time.Second

// Groups makes a control group of version 2 and returns its folder. It takes the place of a node's
// /sys/fs/cgroup, and is removed with the stage.
func (s *Stage) Groups() (string, error) {
	if s.groups != "" {
		return s.groups, nil
	}
	above, err := unified()
	if err != nil {
		return "", err
	}
	removeStale(above)
	top := filepath.Join(above, groupPrefix+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(top, 0o755); err != nil {
		return "", fmt.Errorf("make a control group: %w", err)
	}
	s.groups = top
	return top, nil
}

// removeGroups removes the control groups; their processes have ended.
func (s *Stage) removeGroups() error {
	if s.groups == "" {
		return nil
	}
	return cgroup.Remove(s.groups, groupTime)
}

// BPF mounts a BPF file system and returns its folder. It is removed with the stage.
func (s *Stage) BPF() (string, error) {
	if s.bpf != "" {
		return s.bpf, nil
	}
	folder := filepath.Join(s.Dir, "bpf")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return "", fmt.Errorf("make a folder for BPF programs: %w", err)
	}
	if err := unix.Mount("bpf", folder, "bpf", 0, ""); err != nil {
		return "", fmt.Errorf("mount a BPF file system: %w", err)
	}
	s.bpf = folder
	return folder, nil
}

func (s *Stage) unmountBPF() error {
	if s.bpf == "" {
		return nil
	}
	return os.NewSyscallError("umount", unix.Unmount(s.bpf, unix.MNT_DETACH))
}

// unified returns the folder of this program's control group of version 2.
func unified() (string, error) {
	layout, err := cgroup.Detect()
	if err != nil {
		return "", err
	}
	for _, h := range layout.Hierarchies {
		if h.V2 {
			return filepath.Join(h.Mount, h.Own), nil
		}
	}
	return "", errors.New("capture inside pods needs control groups of version 2: boot with systemd.unified_cgroup_hierarchy=1")
}

// removeStale removes the control groups of benchmarks that were killed.
func removeStale(above string) {
	found, err := filepath.Glob(filepath.Join(above, groupPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range found {
		if _, err := os.Stat("/proc/" + strings.TrimPrefix(filepath.Base(dir), groupPrefix)); err != nil {
			_ = cgroup.Remove(dir, 0) // another benchmark's programs may just be ending
		}
	}
}
