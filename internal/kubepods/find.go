// Package kubepods finds the control group in which the kubelet keeps those of pods, and reads
// pods' UIDs from the names of control groups.
//
// Two programs need it: the holder (internal/hook) attaches BPF programs to the group, and the
// agent watches what is in it (internal/agent/podgroups). The holder must not import the agent, so
// the package is beside both.
package kubepods

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Errors of Find. In each case the node can still be intercepted on the wire.
var (
	// ErrVersion1 means that the node has control groups of version 1 only.
	ErrVersion1 = errors.New("the node has control groups v1 only: interception inside pods is not possible here, " +
		"and pods are intercepted on the wire (nftables); for interception inside pods, boot the node with control groups v2")
	// ErrNotFound means that there is no control group of pods.
	ErrNotFound = errors.New("no control group of pods (kubepods or kubepods.slice): " +
		"check that the kubelet runs, and not with --cgroups-per-qos=false")
)

// MaxDepth is the greatest depth of the pods' control group. The program on uplinks
// (internal/hook/program) looks for it among so many ancestors of a socket's group. A process in a
// control group namespace of its own sees a smaller depth than the program does.
const MaxDepth = 12

// The bounds of a search. Groups deeper than MaxDepth are looked at to name the reason.
const (
	maxSearchDepth = 3 * MaxDepth
	maxSearched    = 50_000
)

// Find returns the folder of the kubelet's control group of pods, given the file system that is
// mounted at /sys/fs/cgroup. The folder is relative to it, such as kubepods.slice (driver systemd),
// kubepods (cgroupfs) or unified/kubepods (v2 beside v1). The kubelet's --cgroup-root may have put
// it deeper.
//
// Of several, one that holds pods is preferred, then the one nearest the top: other candidates are
// left over from an earlier configuration, or belong to a cluster inside a container.
func Find(cgroups fs.FS) (string, error) {
	top, err := unified(cgroups)
	if err != nil {
		return "", fmt.Errorf("find the pods' control group: %w", err)
	}
	found, err := search(cgroups, top)
	if err != nil {
		return "", fmt.Errorf("find the pods' control group: %w", err)
	}
	best, err := choose(found)
	if err != nil {
		return "", fmt.Errorf("find the pods' control group: %w", err)
	}
	return best, nil
}

// Top returns the folder of the topmost control group of version 2, given the file system that is
// mounted at /sys/fs/cgroup. All pods are below it, wherever the kubelet puts them.
func Top(cgroups fs.FS) (string, error) {
	top, err := unified(cgroups)
	if err != nil {
		return "", fmt.Errorf("find the topmost control group: %w", err)
	}
	return top, nil
}

// unified returns the folder at which control groups of version 2 are mounted.
func unified(cgroups fs.FS) (string, error) {
	for _, top := range []string{".", "unified"} {
		_, err := fs.Stat(cgroups, path.Join(top, "cgroup.controllers"))
		if err == nil {
			return top, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	entries, err := fs.ReadDir(cgroups, ".")
	if err != nil {
		return "", err
	}
	if len(entries) == 0 {
		return "", errors.New("no control groups are mounted: mount the node's /sys/fs/cgroup into the container")
	}
	return "", ErrVersion1
}

// candidate is a control group with the name of the kubelet's.
type candidate struct {
	folder string
	depth  int  // 1 is below the top
	pods   bool // holds pods
}

// search returns the candidates below a folder, by depth. It does not look inside of them: a pod
// may name groups below its own as it likes.
func search(cgroups fs.FS, top string) ([]candidate, error) {
	if _, err := fs.ReadDir(cgroups, top); err != nil {
		return nil, err
	}
	var found []candidate
	level := []string{top}
	for depth, searched := 1, 0; depth <= maxSearchDepth && len(level) > 0; depth++ {
		var deeper []string
		for _, above := range level {
			for _, name := range foldersIn(cgroups, above) {
				folder := path.Join(above, name)
				if isKubepods(name) {
					found = append(found, candidate{folder, depth, holdsPods(cgroups, folder)})
				} else if searched++; searched <= maxSearched {
					deeper = append(deeper, folder)
				}
			}
		}
		level = deeper
	}
	return found, nil
}

// foldersIn returns the names of the folders in a folder. One that was removed meanwhile, or may
// not be read, is like an empty one.
func foldersIn(cgroups fs.FS, folder string) (names []string) {
	entries, _ := fs.ReadDir(cgroups, folder)
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// holdsPods reports whether a pod's group is in a folder or one below, of a quality-of-service
// class.
func holdsPods(cgroups fs.FS, folder string) bool {
	names := foldersIn(cgroups, folder)
	if slices.ContainsFunc(names, isPod) {
		return true
	}
	return slices.ContainsFunc(names, func(class string) bool {
		return slices.ContainsFunc(foldersIn(cgroups, path.Join(folder, class)), isPod)
	})
}

func choose(found []candidate) (string, error) {
	if len(found) == 0 {
		return "", ErrNotFound
	}
	order := func(a, b candidate) int {
		if a.pods != b.pods {
			if a.pods {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.depth, b.depth)
	}
	slices.SortStableFunc(found, order)
	best := found[0]
	if len(found) > 1 && order(best, found[1]) == 0 {
		return "", fmt.Errorf("%s and %s both look like it: remove the one that the kubelet does not use, or restart the node",
			best.folder, found[1].folder)
	}
	if best.depth > MaxDepth {
		return "", fmt.Errorf("%s is %d levels deep, and BPF programs look at %d: set the kubelet's --cgroup-root nearer the top; "+
			"until then, interception inside pods is not possible here, and pods are intercepted on the wire (nftables)",
			best.folder, best.depth, MaxDepth)
	}
	return best.folder, nil
}

// isKubepods reports whether the kubelet names its group of pods so. With driver systemd and
// --cgroup-root=/a/b it is a.slice/a-b.slice/a-b-kubepods.slice.
func isKubepods(name string) bool {
	return name == "kubepods" || name == "kubepods.slice" || strings.HasSuffix(name, "-kubepods.slice")
}
