// Ending processes of the sandbox, recorded or not.

package process

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/sandbox/netns"
)

// Kill kills one process and waits until it is gone.
func Kill(id ID) error {
	if err := id.Signal(unix.SIGKILL); err != nil {
		return err
	}
	const limit = 10 * time.Second // a killed process only lingers in a system call that does not end
	if !id.Wait(limit) {
		return fmt.Errorf("process %d does not end", id.PID)
	}
	return nil
}

// Clear kills every process inside the namespace, including those that a crash left and those never
// recorded, such as a shell. It repeats until there is none, since a process may start another one
// meanwhile.
func Clear(n netns.Namespace) error {
	const rounds = 10
	for range rounds {
		pids, err := n.Processes()
		if err != nil {
			return err
		}
		left := 0
		for _, pid := range pids {
			if pid == os.Getpid() {
				continue
			}
			id, err := Identify(pid)
			if err != nil || !id.Alive() {
				continue
			}
			left++
			if err := Kill(id); err != nil {
				return fmt.Errorf("clear network namespace %s: %w", n, err)
			}
		}
		if left == 0 {
			return nil
		}
	}
	return fmt.Errorf("clear network namespace %s: processes keep starting there", n)
}
