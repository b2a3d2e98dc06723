// Package hooktest gives kernel tests control groups of their own, and clients that connect from
// them in every way.
package hooktest

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
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

// Groups makes a control group for the test, at the top, and removes it and all below it when the
// test ends. Nothing is ever attached above it.
func Groups(t testing.TB) string {
	t.Helper()
	top, err := os.MkdirTemp(Unified(t), "podid-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var below []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				below = append(below, path)
			}
			return nil
		})
		for _, path := range slices.Backward(below) {
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}
	})
	return top
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
