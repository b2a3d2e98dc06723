// A BPF file system for one test.

package hooktest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Pins returns a folder, which does not exist yet, in a BPF file system of the test's own. The file
// system is mounted nowhere: it lives as long as a descriptor of this process, so nothing of it
// stays when the test is killed.
func Pins(t testing.TB) string {
	t.Helper()
	root, err := bpfFileSystem()
	if err != nil {
		t.Fatalf("make a BPF file system: %v", err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return filepath.Join(fmt.Sprintf("/proc/self/fd/%d", root.Fd()), "podid")
}

// bpfFileSystem returns the root of a new BPF file system.
func bpfFileSystem() (*os.File, error) {
	fs, err := unix.Fsopen("bpf", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(mount), "BPF file system"), nil
}
