// Whether the programs decide: others may have removed them, or run before them.

package program

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// maxBelow is how deep below the pods' group Check looks: a class of service, a pod, a container,
// and the group within it that some runtimes make. Programs on the groups that a container makes
// below its own concern that container alone.
const maxBelow = 4

// Check returns an error if a program is not on the pods' control group, or if another runs before
// it for a pod: one that is on the same group and was first, one on a group below, or one on any
// group above with BPF_F_PREORDER. Of several programs the first decides where a connect arrives.
func (h *Hook) Check() error {
	below, err := h.groupsBelow()
	if err != nil {
		return err
	}
	for name, at := range attachTypes() {
		id, err := h.attached(name)
		if err != nil {
			return err
		}
		if err := decides(h.group, at, id); err != nil {
			return err
		}
		for _, group := range below {
			if err := decides(group, at, id); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
				return err
			}
		}
	}
	return nil
}

// Attached returns an error if connect4 or connect6 is not on the pods' control group:
// fs.ErrNotExist if it is on none, or its pin is gone. It costs much less than Check.
func (h *Hook) Attached() error {
	for name := range attachTypes() {
		if _, err := h.attached(name); err != nil {
			return err
		}
	}
	return nil
}

// missing is an error that is fs.ErrNotExist.
type missing string

func (m missing) Error() string { return string(m) }

// Is implements errors.Is.
func (missing) Is(target error) bool { return target == fs.ErrNotExist }

// attached returns the ID of the pinned program, which is on the pods' control group.
func (h *Hook) attached(name string) (ebpf.ProgramID, error) {
	pinned, err := pinnedLink(filepath.Join(h.pins, name))
	if err != nil {
		return 0, err
	}
	defer func() { _ = pinned.Close() }()
	info, err := pinned.Info()
	if err != nil {
		return 0, fmt.Errorf("read link of %s: %w", name, err)
	}
	on := info.Cgroup()
	if on == nil || on.CgroupId == 0 {
		return 0, missing("podid's " + name + " was detached, or its control group was removed")
	}
	id, err := GroupID(h.group)
	if err != nil {
		return 0, err
	}
	if on.CgroupId != id {
		return 0, fmt.Errorf("podid's %s is on another control group than %s", name, h.group)
	}
	return info.Program, nil
}

// groupsBelow returns the control groups below the pods'.
func (h *Hook) groupsBelow() ([]string, error) {
	var groups []string
	err := filepath.WalkDir(h.group, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && path == h.group:
			return err
		case err != nil: // the group is gone
			return fs.SkipDir
		case !d.IsDir() || path == h.group:
			return nil
		}
		groups = append(groups, path)
		if strings.Count(path[len(h.group):], string(filepath.Separator)) == maxBelow {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list control groups: %w", err)
	}
	return groups, nil
}

// decides returns an error unless a program is the first that runs for a connect in a group.
func decides(group string, at ebpf.AttachType, id ebpf.ProgramID) error {
	folder, err := os.Open(group)
	if err != nil {
		return fmt.Errorf("open control group: %w", err)
	}
	defer func() { _ = folder.Close() }()
	effective, err := link.QueryPrograms(link.QueryOptions{
		Target: int(folder.Fd()), Attach: at, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE,
	})
	if err != nil {
		return explain(fmt.Errorf("list programs of %s: %w", group, err))
	}
	return inFront(effective.Programs, id, group)
}

// inFront returns an error unless a program is the first of those attached.
func inFront(attached []link.AttachedProgram, id ebpf.ProgramID, where string) error {
	for i, p := range attached {
		if p.ID != id {
			continue
		}
		if i > 0 {
			return runsFirst(attached[0].ID, where)
		}
		return nil
	}
	return fmt.Errorf("podid's program is not on %s", where)
}

func runsFirst(id ebpf.ProgramID, where string) error {
	return fmt.Errorf("another program runs before podid's on %s: find its owner (bpftool prog show id %d) "+
		"and remove it, or have it run after podid's", where, id)
}
