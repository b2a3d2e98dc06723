// The record of what a sandbox consists of, written before each step, so that `down` finds
// everything after a crash.

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/process"
	"github.com/podid-io/podid/internal/sandbox/programs"
)

// Phase is a stage in the life of a sandbox.
type Phase string

// A sandbox that is neither up nor in the hands of a living command was left by a crash.
const (
	Starting Phase = "starting"
	Up       Phase = "up"
	Stopping Phase = "stopping"
)

// State is the content of state.json. Only the holder of the sandbox's lock writes it.
type State struct {
	Name    string    `json:"name"`
	Phase   Phase     `json:"phase"`
	Created time.Time `json:"created"`
	Nodes   int       `json:"nodes"`
	// Dataplane is that of all nodes.
	Dataplane network.Dataplane `json:"dataplane"`
	Set       programs.Set      `json:"programs"`
	// Cgroups are the sandbox's control groups on the machine, one per hierarchy.
	Cgroups    []string    `json:"cgroups"`
	Components []Component `json:"components"`
	// Azure holds the emulator's addresses.
	Azure Azure `json:"azure"`
}

// Component is one running program of the sandbox, or one node.
type Component struct {
	Name string     `json:"name"`
	ID   process.ID `json:"id"`
	// Node marks a node's pid 1.
	Node bool   `json:"node,omitempty"`
	Log  string `json:"log"`
}

// ErrNotUp is returned if a command needs a running sandbox and there is none.
var ErrNotUp = errors.New("no sandbox is up: run `podid sandbox up`")

// component returns a recorded component.
func (s *State) component(name string) (Component, bool) {
	for _, c := range s.Components {
		if c.Name == name {
			return c, true
		}
	}
	return Component{}, false
}

// put records a component and replaces an earlier one of the same name.
func (s *State) put(c Component) {
	for i := range s.Components {
		if s.Components[i].Name == c.Name {
			s.Components[i] = c
			return
		}
	}
	s.Components = append(s.Components, c)
}

// record is a state and its file. It is safe for concurrent use.
type record struct {
	layout Layout
	mu     sync.Mutex
	state  State
}

// update changes the state and saves it.
func (r *record) update(change func(*State)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.state)
	b, err := json.MarshalIndent(r.state, "", "  ")
	if err != nil {
		return fmt.Errorf("save the sandbox's state: %w", err)
	}
	file := r.layout.stateFile()
	if err := os.WriteFile(file+".part", b, 0o600); err != nil {
		return fmt.Errorf("save the sandbox's state: %w", err)
	}
	if err := os.Rename(file+".part", file); err != nil {
		return fmt.Errorf("save the sandbox's state: %w", err)
	}
	return nil
}

// load reads the state. It returns ErrNotUp if there is none.
func (l Layout) load() (State, error) {
	b, err := os.ReadFile(l.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, ErrNotUp
	}
	if errors.Is(err, fs.ErrPermission) {
		return State{}, fmt.Errorf("read the sandbox's state: %w: run this as root, for example with sudo", err)
	}
	if err != nil {
		return State{}, fmt.Errorf("read the sandbox's state: %w", err)
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("read the sandbox's state %s: %w", l.stateFile(), err)
	}
	return s, nil
}
