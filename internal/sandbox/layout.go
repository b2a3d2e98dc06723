// Package sandbox runs a whole Kubernetes cluster and an emulated Azure on one machine, inside network namespaces that
// have no way out. Nothing of the machine's own network, sysctls, mounts or processes is touched.
//
// This file says where a sandbox keeps its things on the machine.
package sandbox

import (
	"fmt"
	"path/filepath"
	"regexp"
)

// DefaultName is the sandbox that commands without --name mean.
const DefaultName = "default"

// home is the folder of all sandboxes. It is on a disk: containerd keeps its layers in overlay file systems there.
const home = "/var/lib/podid/sandbox"

// Layout is the folder of one sandbox.
type Layout struct {
	Name string
}

// NewLayout checks the name, which becomes part of the names of files, network namespaces and control groups.
func NewLayout(name string) (Layout, error) {
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`).MatchString(name) {
		return Layout{}, fmt.Errorf("sandbox name %q: use up to 32 lower-case letters, digits and dashes", name)
	}
	return Layout{Name: name}, nil
}

// Dir is the sandbox's folder; everything it writes is below.
func (l Layout) Dir() string { return filepath.Join(home, l.Name) }

// PKI holds certificates and kubeconfigs.
func (l Layout) PKI() string { return filepath.Join(l.Dir(), "pki") }

// Kubeconfig is the administrator's, for use inside of the sandbox.
func (l Layout) Kubeconfig() string { return filepath.Join(l.PKI(), "admin.kubeconfig") }

// Logs holds one file per component.
func (l Layout) Logs() string { return filepath.Join(l.Dir(), "log") }

// Azure is the emulator's folder.
func (l Layout) Azure() string { return filepath.Join(l.Dir(), "azure") }

// Images holds the archives that nodes import.
func (l Layout) Images() string { return filepath.Join(l.Dir(), "images") }

// Node is a node's folder.
func (l Layout) Node(name string) string { return filepath.Join(l.Dir(), "nodes", name) }

func (l Layout) stateFile() string { return filepath.Join(l.Dir(), "state.json") }

func (l Layout) lockFile() string { return "/run/podid-sandbox-" + l.Name + ".lock" }
