// Whether Cilium routes packets of pods past the redirect.

package dataplane

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/vishvananda/netlink"
)

// HostRouting is what is known of Cilium's host routing on a node. With eBPF host routing, packets
// of pods pass by the node's netfilter. Programs, interfaces and routes have the same names as with
// legacy host routing. A request of a pod that arrives by the redirect distinguishes them.
type HostRouting int32

const (
	// NoCilium means that Cilium is not on the node.
	NoCilium HostRouting = iota
	// Unknown means that it is, and no request of a pod has arrived.
	Unknown
	// Legacy means that it is, and a request of a pod has arrived.
	Legacy
)

// String returns the value as metrics have it.
func (h HostRouting) String() string {
	switch h {
	case Unknown:
		return "unknown"
	case Legacy:
		return "legacy"
	default:
		return "none"
	}
}

// ciliumInterface is on every node with Cilium.
const ciliumInterface = "cilium_host"

// Cilium finds out which host routing Cilium has on this node. Its zero value has not looked yet.
// It may be used concurrently.
type Cilium struct {
	state atomic.Int32
	// Ignore is the name of an interface that is no pod's.
	Ignore string
}

// HostRouting returns what is known.
func (c *Cilium) HostRouting() HostRouting { return HostRouting(c.state.Load()) }

// Look looks for Cilium in the network namespace of this thread.
func (c *Cilium) Look() error {
	_, err := netlink.LinkByName(ciliumInterface)
	missing := netlink.LinkNotFoundError{}
	switch {
	case errors.As(err, &missing):
		c.state.Store(int32(NoCilium))
	case err != nil:
		return fmt.Errorf("look for interface %s: %w", ciliumInterface, err)
	default:
		c.state.CompareAndSwap(int32(NoCilium), int32(Unknown))
	}
	return nil
}

// Arrived records that a connection has arrived by the redirect. link is the index of the interface
// that it came in by. What comes from outside of the node proves nothing.
func (c *Cilium) Arrived(link int) {
	if c.HostRouting() != Unknown || link == 0 {
		return
	}
	l, err := netlink.LinkByIndex(link)
	if err != nil || l.Attrs().Name == c.Ignore {
		return // a pod that is gone
	}
	if l.Type() == "veth" || l.Type() == "netkit" {
		c.state.CompareAndSwap(int32(Unknown), int32(Legacy))
	}
}
