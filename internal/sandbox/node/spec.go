// Package node runs one node of the sandbox: a process with its own network, mount, pid, uts, ipc
// and control group namespaces, whose pid 1 is podid itself. Killing that pid 1 removes everything
// on the node.
//
// The control plane runs in the same way, but with the machine's files and control groups.
package node

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/podid-io/podid/internal/sandbox/cgroup"
)

// Spec is the task of a node's pid 1. `sandbox up` writes it to a file. It holds no secrets, only
// paths.
type Spec struct {
	Hostname string `json:"hostname"`
	// Plain asks for a process namespace only, without a root file system, host name or control
	// groups.
	Plain bool `json:"plain,omitempty"`
	// Env is the environment of all services.
	Env []string `json:"env"`
	// Dir is the node's folder on the machine.
	Dir string `json:"dir"`
	// Cgroups is the machine's layout, Groups the node's own folders in it.
	Cgroups cgroup.Layout `json:"cgroups"`
	Groups  []string      `json:"groups"`
	// Binds are mounted inside the node's root.
	Binds []Bind `json:"binds"`
	// Before are programs that run to their end before the first service starts, in this order. If one
	// fails, no service starts.
	Before []Service `json:"before,omitempty"`
	// Services run as long as the node does. They are started in this order.
	Services []Service `json:"services"`
	// Images are archives, as paths inside the node, that are imported before the second service
	// starts.
	Images []string `json:"images"`
	// Log is the log of pid 1 itself.
	Log string `json:"log"`
}

// Bind shows a file or folder of the machine inside the node.
type Bind struct {
	From     string `json:"from"`
	To       string `json:"to"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// Service is a program that pid 1 starts, and restarts when it ends.
type Service struct {
	Name string   `json:"name"`
	Path string   `json:"path"` // inside the node
	Args []string `json:"args"`
	// Log is a file on the machine.
	Log string `json:"log"`
	// Socket, when set, must accept connections before the next service starts.
	Socket string `json:"socket,omitempty"`
}

// Write saves the spec.
func (s Spec) Write(file string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write node spec: %w", err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return fmt.Errorf("write node spec: %w", err)
	}
	return nil
}

// ReadSpec reads a file that Write wrote.
func ReadSpec(file string) (Spec, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return Spec{}, fmt.Errorf("read node spec: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return Spec{}, fmt.Errorf("read node spec %s: %w", file, err)
	}
	return s, nil
}
