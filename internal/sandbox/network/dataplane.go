package network

import (
	"fmt"
	"slices"
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

// HostRoutingLabel is the node label with which AKS marks nodes whose data plane is like EBPF.
const HostRoutingLabel = "kubernetes.azure.com/ebpf-host-routing"

// ParseDataplane reads a user's choice. Empty means the default.
func ParseDataplane(s string) (Dataplane, error) {
	if s == "" {
		return Bridged, nil
	}
	if d := Dataplane(s); slices.Contains([]Dataplane{Bridged, Routed, EBPF}, d) {
		return d, nil
	}
	return "", fmt.Errorf("data plane %q: use %s, %s or %s", s, Bridged, Routed, EBPF)
}
