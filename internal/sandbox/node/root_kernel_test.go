package node

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/testnet"
)

// TestProtectSysctls: programs on a node cannot change the machine's sysctls, and can change those
// of the node's network.
func TestProtectSysctls(t *testing.T) {
	testnet.Require(t)
	proc := t.TempDir()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the mount namespace ends with the thread
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
				return err
			}
			if err := protectSysctls(filepath.Join(proc, "sys")); err != nil {
				return err
			}
			for name, want := range map[string]error{
				"kernel/timer_migration": unix.EROFS, "vm/overcommit_memory": unix.EROFS, "fs/file-max": unix.EROFS, "net/ipv4/ip_forward": nil,
			} {
				f, err := os.OpenFile(filepath.Join(proc, "sys", name), os.O_WRONLY, 0) // nothing is written
				if !errors.Is(err, want) {
					t.Errorf("opening %s for writing: %v, want %v", name, err, want)
				}
				if err == nil {
					_ = f.Close()
				}
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
