// Package sandbox runs a whole Kubernetes cluster and an emulated Azure on one machine, inside
// network namespaces without a way out. The machine's own network, sysctls, mounts and processes
// are not touched.
//
// This file defines where a sandbox keeps its files.
package sandbox

import (
	"fmt"
	"path/filepath"
	"regexp"
)

// DefaultName is the sandbox that commands without --name mean.
const DefaultName = "default"

// home is the folder of all sandboxes. It must be on a disk: containerd keeps its layers in overlay
// file systems there.
const home = "/var/lib/podid/sandbox"

// Layout is the folder of one sandbox.
type Layout struct {
	Name string
}

// NewLayout validates the name, which becomes part of the names of files, network namespaces and
// control groups.
func NewLayout(name string) (Layout, error) {
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`).MatchString(name) {
		return Layout{}, fmt.Errorf("sandbox name %q: use up to 32 lower-case letters, digits and dashes", name)
	}
	return Layout{Name: name}, nil
}

// Dir returns the sandbox's folder, which holds everything it writes.
func (l Layout) Dir() string { return filepath.Join(home, l.Name) }

// PKI returns the folder for certificates and kubeconfigs.
func (l Layout) PKI() string { return filepath.Join(l.Dir(), "pki") }

// Kubeconfig returns the administrator's kubeconfig, for use inside the sandbox.
func (l Layout) Kubeconfig() string { return filepath.Join(l.PKI(), "admin.kubeconfig") }

// Logs returns the folder with one log file per component.
func (l Layout) Logs() string { return filepath.Join(l.Dir(), "log") }

// Azure returns the emulator's folder.
func (l Layout) Azure() string { return filepath.Join(l.Dir(), "azure") }

// Images returns the folder for archives that nodes import.
func (l Layout) Images() string { return filepath.Join(l.Dir(), "images") }

// Node returns a node's folder.
func (l Layout) Node(name string) string { return filepath.Join(l.Dir(), "nodes", name) }

func (l Layout) stateFile() string { return filepath.Join(l.Dir(), "state.json") }

func (l Layout) lockFile() string { return "/run/podid-sandbox-" + l.Name + ".lock" }
