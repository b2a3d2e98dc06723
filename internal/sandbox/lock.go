// The lock that lets one command at a time change a sandbox.

package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// acquire locks the sandbox, or fails if another command holds the lock. The kernel releases it
// when this process ends. release(true) also removes the lock file.
func (l Layout) acquire() (release func(remove bool), err error) {
	for {
		f, err := os.OpenFile(l.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock sandbox %s: %w", l.Name, err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("another podid command is working on sandbox %q: wait for it, or use --name", l.Name)
			}
			return nil, fmt.Errorf("lock sandbox %s: %w", l.Name, err)
		}
		if !sameFile(f, l.lockFile()) { // its holder removed it between open and lock
			_ = f.Close()
			continue
		}
		return func(remove bool) {
			if remove {
				_ = os.Remove(l.lockFile())
			}
			_ = f.Close()
		}, nil
	}
}

func sameFile(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}
