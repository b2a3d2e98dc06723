// Removing a sandbox in any state: up, partly started, partly removed, or left by a crash.

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/sandbox/cgroup"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/process"
)

// removalTimeout is how long the kernel may take to release a control group.
const removalTimeout = 10 * time.Second

// Down removes the sandbox and everything that belongs to it, and reports whether there was
// anything. It is idempotent, and the caller's context does not interrupt it.
func (s *Sandbox) Down() (found bool, err error) {
	release, err := s.layout.acquire()
	if err != nil {
		return false, err
	}
	defer func() { release(err == nil) }()
	return s.down()
}

// down is Down for the holder of the lock. It continues after a step that fails.
func (s *Sandbox) down() (found bool, err error) {
	state, err := s.layout.load()
	found = err == nil
	if err != nil && !errors.Is(err, ErrNotUp) {
		found = true // a broken state file: the next steps find everything by name
	}
	if found {
		r := record{layout: s.layout, state: state}
		if state.Name != "" {
			_ = r.update(func(st *State) { st.Phase = Stopping }) // for `status`; down works without it
		}
	}
	spaces, err := network.Namespaces(s.layout.Name)
	if err != nil {
		return found, err
	}
	found = found || len(spaces) > 0
	errs := []error{killRecorded(state, true), killRecorded(state, false)}
	for _, n := range spaces {
		errs = append(errs, process.Clear(n))
	}
	errs = append(errs, s.removeGroups(state))
	if err := errors.Join(errs...); err != nil { // the next steps remove what another `down` needs
		return found, &CleanupError{s.layout.Name, err}
	}
	if err := errors.Join(network.Down(s.layout.Name), s.removeFiles()); err != nil {
		return found, &CleanupError{s.layout.Name, err}
	}
	return found, nil
}

// CleanupError reports that parts of a sandbox are left. Another `down` tries again.
type CleanupError struct {
	Sandbox string
	Err     error
}

func (e *CleanupError) Error() string { return "take sandbox " + e.Sandbox + " down: " + e.Err.Error() }
func (e *CleanupError) Unwrap() error { return e.Err }

// killRecorded kills the nodes by their pid 1, or everything else. There is no graceful stop
// because the data is removed next. Nodes go first, so that they restart nothing meanwhile.
func killRecorded(state State, nodes bool) error {
	var errs []error
	for _, c := range state.Components {
		if c.Node == nodes {
			errs = append(errs, c.ID.Signal(unix.SIGKILL))
		}
	}
	for _, c := range state.Components {
		if c.Node == nodes && !c.ID.Wait(removalTimeout) {
			errs = append(errs, fmt.Errorf("%s does not end", c.Name))
		}
	}
	return errors.Join(errs...)
}

// removeGroups kills the processes that remain in the sandbox's control groups and removes the
// groups.
func (s *Sandbox) removeGroups(state State) error {
	groups := state.Cgroups
	if len(groups) == 0 { // no state file: use the default places
		layout, err := cgroup.Detect()
		if err != nil {
			return err
		}
		groups = layout.Bases(s.layout.Name)
	}
	var errs []error
	for _, dir := range groups {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		pids, err := cgroup.Processes(dir)
		errs = append(errs, err)
		for _, pid := range pids {
			if id, err := process.Identify(pid); err == nil {
				errs = append(errs, process.Kill(id))
			}
		}
		errs = append(errs, cgroup.Remove(dir, removalTimeout))
	}
	return errors.Join(errs...)
}

// removeFiles removes the sandbox's folder, and its parents if they are empty. It does not follow
// mounts that still exist below it.
func (s *Sandbox) removeFiles() error {
	if err := unmountBelow(s.layout.Dir()); err != nil {
		return err
	}
	if err := os.RemoveAll(s.layout.Dir()); err != nil {
		return fmt.Errorf("remove the sandbox's folder: %w", err)
	}
	_ = os.Remove(home) // fails if there is another sandbox, as intended
	_ = os.Remove(filepath.Dir(home))
	return nil
}
