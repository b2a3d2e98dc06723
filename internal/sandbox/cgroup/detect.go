// The machine's layout.

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Mode is how the machine mounts its control groups.
type Mode string

// The three layouts in use. Hybrid is v1 with an extra v2 tree that has no controllers.
const (
	V1     Mode = "v1"
	Hybrid Mode = "hybrid"
	V2     Mode = "v2"
)

// Hierarchy is one mounted tree of control groups.
type Hierarchy struct {
	// Mount is its mount point on the machine, for example /sys/fs/cgroup/memory.
	Mount string `json:"mount"`
	// Options are the mount options that select a v1 hierarchy: its controllers ("cpu", "cpuacct"),
	// or "name=systemd".
	Options []string `json:"options,omitempty"`
	// V2 marks the unified hierarchy.
	V2 bool `json:"v2,omitempty"`
	// Own is the folder, below Mount, of the inspected process's group; "/" for the top.
	Own string `json:"own"`
}

// Layout describes the machine's control groups.
type Layout struct {
	Mode        Mode        `json:"mode"`
	Hierarchies []Hierarchy `json:"hierarchies"`
}

// Detect reads the layout from the view of this process.
func Detect() (Layout, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Layout{}, fmt.Errorf("detect control groups: %w", err)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Layout{}, fmt.Errorf("detect control groups: %w", err)
	}
	return Parse(string(mountinfo), string(self))
}

// Parse reads the contents of /proc/self/mountinfo and /proc/self/cgroup, see proc(5) and
// cgroups(7).
func Parse(mountinfo, self string) (Layout, error) {
	own := parseSelf(self)
	var layout Layout
	for line := range strings.Lines(mountinfo) {
		m, ok := parseMount(line)
		if !ok || layout.has(m) {
			continue
		}
		h := Hierarchy{Mount: m.point, V2: m.fs == "cgroup2"}
		if !h.V2 {
			if h.Options = m.selectors(); len(h.Options) == 0 {
				continue
			}
		}
		path, known := own[strings.Join(h.Options, ",")]
		if !known {
			continue // mounted, but no longer in use
		}
		h.Own = below(path, m.root)
		layout.Hierarchies = append(layout.Hierarchies, h)
	}
	if len(layout.Hierarchies) == 0 {
		return Layout{}, errors.New("no control groups are mounted: mount -t cgroup2 none /sys/fs/cgroup")
	}
	layout.Mode = mode(layout.Hierarchies)
	return layout, nil
}

func mode(all []Hierarchy) Mode {
	v1 := slices.ContainsFunc(all, func(h Hierarchy) bool { return !h.V2 })
	v2 := slices.ContainsFunc(all, func(h Hierarchy) bool { return h.V2 })
	switch {
	case v1 && v2:
		return Hybrid
	case v2:
		return V2
	default:
		return V1
	}
}

// has reports whether the layout already contains the hierarchy under another mount point.
func (l Layout) has(m mount) bool {
	return slices.ContainsFunc(l.Hierarchies, func(h Hierarchy) bool {
		return h.V2 == (m.fs == "cgroup2") && slices.Equal(h.Options, m.selectors())
	})
}

// mount is one line of mountinfo for a control group file system.
type mount struct {
	root, point, fs string
	super           []string
}

func parseMount(line string) (mount, bool) {
	front, back, ok := strings.Cut(strings.TrimSpace(line), " - ")
	if !ok {
		return mount{}, false
	}
	f, b := strings.Fields(front), strings.Fields(back)
	if len(f) < 5 || len(b) < 3 || (b[0] != "cgroup" && b[0] != "cgroup2") {
		return mount{}, false
	}
	return mount{root: f[3], point: f[4], fs: b[0], super: strings.Split(b[2], ",")}, true
}

// selectors returns the super block options that identify a v1 hierarchy, in alphabetical order.
func (m mount) selectors() []string {
	if m.fs == "cgroup2" {
		return nil
	}
	var out []string
	for _, o := range m.super {
		switch o {
		case "rw", "ro", "xattr", "none", "clone_children", "noprefix", "favordynmods":
		default:
			if !strings.HasPrefix(o, "release_agent=") {
				out = append(out, o)
			}
		}
	}
	slices.Sort(out)
	return out
}

// parseSelf maps a hierarchy's selectors, "" for v2, to the process's group in it.
func parseSelf(self string) map[string]string {
	own := map[string]string{}
	for line := range strings.Lines(self) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if parts[1] == "" {
			own[""] = parts[2]
			continue
		}
		names := strings.Split(parts[1], ",")
		slices.Sort(names)
		own[strings.Join(names, ",")] = parts[2]
	}
	return own
}

// below translates a group's path into a folder below a mount that shows only the part of the tree
// under root.
func below(path, root string) string {
	if root == "/" {
		return filepath.Join("/", path)
	}
	if rest, ok := strings.CutPrefix(path, root); ok && (rest == "" || rest[0] == '/') {
		return filepath.Join("/", rest)
	}
	return "/" // outside the mount, as in some containers: use its top
}
