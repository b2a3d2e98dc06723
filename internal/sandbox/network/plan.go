// Package network defines the sandbox's addresses and creates its links: one switch namespace with
// a bridge, one namespace per node, and no way out of either.
package network

import (
	"fmt"
	"net/netip"

	"github.com/podid-io/podid/internal/sandbox/netns"
)

// The addresses of every sandbox. They are fixed because nothing outside the namespaces can see
// them; two sandboxes may use the same ones at the same time.
const (
	// MaxNodes is bounded by the addresses: node i has 10.200.0.10+i and its pods 10.244.i.0/24.
	MaxNodes = 20
	// MetadataPort is the port of the instance metadata service.
	MetadataPort = 80
	// ServiceCIDR holds the cluster IPs of services; its first address is the API server's.
	ServiceCIDR = "10.96.0.0/16"
	// PodCIDR holds the addresses of all pods.
	PodCIDR = "10.244.0.0/16"
	// Bridge is the switch's device in its namespace.
	Bridge = "br0"
)

// Plan lists a sandbox's namespaces and addresses. It is a value; making one changes nothing.
type Plan struct {
	Sandbox string
	Switch  netns.Namespace
	// API is the switch's first address: the API server and the nodes' default gateway.
	API netip.Prefix
	// Azure is the switch's second address: ARM and Entra ID of the emulator.
	Azure netip.Prefix
	// Metadata is 169.254.169.254, on the switch's loopback. Nodes reach it by their default route
	// only.
	Metadata netip.Prefix
	Nodes    []Node
}

// Node is one node's place in the plan.
type Node struct {
	Index     int
	Name      string
	Namespace netns.Namespace
	// Port is the switch's end of the node's link; the node's own end is called eth0.
	Port string
	IP   netip.Prefix
	Pods netip.Prefix
}

// Prefix returns the beginning of the names of a sandbox's namespaces.
func Prefix(sandbox string) string { return "podid-" + sandbox + "-" }

// NewPlan returns the plan of a sandbox with 1 to MaxNodes nodes.
func NewPlan(sandbox string, nodes int) (Plan, error) {
	if nodes < 1 || nodes > MaxNodes {
		return Plan{}, fmt.Errorf("a sandbox has 1 to %d nodes, not %d", MaxNodes, nodes)
	}
	p := Plan{
		Sandbox:  sandbox,
		Switch:   netns.Namespace(Prefix(sandbox) + "switch"),
		API:      netip.MustParsePrefix("10.200.0.1/24"),
		Azure:    netip.MustParsePrefix("10.200.0.2/24"),
		Metadata: netip.MustParsePrefix("169.254.169.254/32"),
	}
	for i := range nodes {
		p.Nodes = append(p.Nodes, Node{
			Index:     i,
			Name:      fmt.Sprintf("node-%d", i),
			Namespace: netns.Namespace(fmt.Sprintf("%snode-%d", Prefix(sandbox), i)),
			Port:      fmt.Sprintf("node-%d", i),
			IP:        netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, 0, byte(10 + i)}), 24),
			Pods:      netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24),
		})
	}
	return p, nil
}

// Namespaces lists every namespace of the plan, the switch first.
func (p Plan) Namespaces() []netns.Namespace {
	all := []netns.Namespace{p.Switch}
	for _, n := range p.Nodes {
		all = append(all, n.Namespace)
	}
	return all
}
