// Nodes with Cilium: whether its host routing lets pods' requests arrive.

package main

import (
	"context"
	"net"
	"time"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/dataplane"
)

// wireOrigins are the origins of connections on the node's network. Each of a pod proves that it
// can arrive.
type wireOrigins struct {
	*attest.Origins
	cilium *dataplane.Cilium
}

// Of implements connections.Origins.
func (o wireOrigins) Of(c net.Conn) attest.Origin {
	origin := o.Origins.Of(c)
	o.cilium.Arrived(origin.Link)
	return origin
}

// watchCilium reports what is known of Cilium until ctx ends, from when the redirect is in place.
func (a *agent) watchCilium(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-a.wire.placed:
	}
	logged := dataplane.NoCilium
	for ctx.Err() == nil {
		before := a.cilium.HostRouting()
		if err := a.cilium.Look(); err != nil {
			a.log.V(1).Info("cannot look for Cilium, retrying", "reason", err.Error())
		}
		now := a.cilium.HostRouting()
		a.metrics.CiliumHostRouting(now.String())
		if now != logged && now == before { // pods have had some time to ask
			a.logCilium(now)
			logged = now
		}
		select {
		case <-ctx.Done():
		case <-time.After(a.o.privileged.Interval()):
		}
	}
}

func (a *agent) logCilium(now dataplane.HostRouting) {
	switch now {
	case dataplane.Unknown:
		if a.checkCapture() != nil && a.dataplane.Ready() == nil {
			a.log.Info("Cilium is on this node, and no request of a pod has arrived yet. With Cilium's eBPF host routing none does, and pods reach " +
				"the metadata service itself: 'cilium status | grep \"Host Routing\"' in Cilium's pod must say Legacy. Else use --capture=require")
		}
	case dataplane.Legacy:
		a.log.Info("a request of a pod has arrived: Cilium has legacy host routing")
	case dataplane.NoCilium:
	}
}
