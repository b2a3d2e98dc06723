package network

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Dataplane is the way that packets of pods take on a node.
type Dataplane string

const (
	// Bridged connects pods to a Linux bridge, as kubenet does. It is the default.
	Bridged Dataplane = "bridge"
	// Routed gives each pod a link and a route of its own, as Azure CNI does.
	Routed Dataplane = "routed"
	// EBPF is Routed, and a BPF program forwards what pods send past the node's netfilter, as networks
	// with eBPF host routing do.
	EBPF Dataplane = "ebpf"
)

// ciliumPrefix begins the data plane of Cilium with eBPF host routing. The folder with its programs
// follows.
const ciliumPrefix = "cilium="

// HostRoutingLabel is the node label with which AKS marks nodes whose data plane is like EBPF.
const HostRoutingLabel = "kubernetes.azure.com/ebpf-host-routing"

// ParseDataplane reads a user's choice. Empty means the default. The folder of Cilium's programs
// may be relative to the working directory.
func ParseDataplane(s string) (Dataplane, error) {
	if s == "" {
		return Bridged, nil
	}
	if dir, ok := strings.CutPrefix(s, ciliumPrefix); ok && dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("find the folder of data plane %s: %w", s, err)
		}
		return Dataplane(ciliumPrefix + dir), nil
	}
	if d := Dataplane(s); slices.Contains([]Dataplane{Bridged, Routed, EBPF}, d) {
		return d, nil
	}
	return "", fmt.Errorf("data plane %q: use %s, %s, %s or %sDIR", s, Bridged, Routed, EBPF, ciliumPrefix)
}

// Cilium returns the folder with Cilium's programs, and false for the other data planes.
func (d Dataplane) Cilium() (dir string, ok bool) {
	return strings.CutPrefix(string(d), ciliumPrefix)
}
