// A BPF file system for one test.

package hooktest

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Pins mounts a BPF file system for the test and returns a folder in it that does not exist yet.
func Pins(t testing.TB) string {
	t.Helper()
	at := t.TempDir()
	if err := unix.Mount("bpf", at, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a BPF file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(at, "podid")
}
