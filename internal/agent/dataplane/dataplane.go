// Package dataplane knows where the network of a node passes by the redirect, so that the agent is
// not ready there. That the redirect is in place proves nothing: packets of such a network never
// meet the node's netfilter, and pods reach the metadata service itself.
package dataplane

import (
	"errors"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
)

// errHostRouting is why the agent is not ready on a node with eBPF host routing.
var errHostRouting = errors.New("node label " + v1.HostRoutingLabel + "=true: with eBPF host routing, packets of pods pass by the redirect " +
	"and reach the metadata service itself; use a node pool without it, and let nodes join with the start-up taint so that no pod starts here")

// Check is what is known of the node's data plane. Its zero value knows nothing. It may be used
// concurrently.
type Check struct {
	hostRouting atomic.Bool
}

// SetNode records what the node's labels say.
func (c *Check) SetNode(node *corev1.Node) {
	c.hostRouting.Store(ascii.ToLower(node.Labels[v1.HostRoutingLabel]) == "true")
}

// Ready returns why the redirect cannot work on this node, nil if nothing speaks against it.
func (c *Check) Ready() error {
	if c.hostRouting.Load() {
		return errHostRouting
	}
	return nil
}
