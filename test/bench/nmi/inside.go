// Row inside: tokens in NMI's cache, asked for inside a pod, on the wire and of a server that makes
// no decisions.

package nmi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/load"
	"github.com/podid-io/podid/test/bench/measure"
	"github.com/podid-io/podid/test/bench/stage"
)

// bareInside is where the bare server listens in a pod's network.
func bareInside() netip.AddrPort { return netip.MustParseAddrPort("127.0.0.1:64600") }

// trio are the contenders of the row: NMI inside a pod, a bare server with a listener in the same
// pod's network, and the same NMI on the wire.
type trio struct{ inside, bare, wire *contender }

func (b *bench) inside(ctx context.Context, step *progress.Step) error {
	return b.node.withPair(ctx, func(p *pair) error {
		return p.withPods(ctx, 1, func(pods []*innerPod) error {
			first, err := pods[0].wait(ctx)
			if err != nil {
				return err
			}
			sockets, err := netns.Open(pods[0].file(), bareInside()) // as the holder opens NMI's
			if err != nil {
				return err
			}
			err = b.node.withBare(first.Body, 1, func(bare *stage.Program) error {
				return b.insideWith(ctx, step, func(name string) trio {
					return trio{
						inside: &contender{name: "NMI inside the pod", program: p.agent.Program, pods: pods[0].sender, to: inside, profile: name},
						bare:   &contender{name: "bare server inside the pod", program: bare, pods: pods[0].sender, to: toBareInside},
						wire:   &contender{name: "NMI on the wire", program: p.agent.Program, pods: b.node.pods, to: onWire},
					}
				})
			}, sockets.Listener)
			return errors.Join(err, sockets.Close())
		})
	})
}

func toBareInside(s load.Spec) load.Spec {
	s.Sources = loopbacks(s.Fresh)
	s.Target, s.Request = bareInside(), request(bareInside().Addr().String(), resource)
	return s
}

func onWire(s load.Spec) load.Spec {
	if s.Sources = podAddresses(1); s.Fresh {
		s.Sources = podAddresses(8) // one address does not have enough ports
	}
	return toNMI(s)
}

// insideWith measures each kind of load.
func (b *bench) insideWith(ctx context.Context, step *progress.Step, newTrio func(name string) trio) error {
	for _, kind := range []struct {
		name   string
		load   load.Spec
		report func(trio)
	}{
		{"inside-cache", load.Spec{Connections: connections}, b.reportInsideCache},
		{"inside-single", load.Spec{Connections: 1}, b.reportInsideSingle},
		{"inside-fresh", load.Spec{Connections: connections, Fresh: true}, b.reportInsideFresh},
	} {
		three := newTrio(kind.name)
		if err := b.turns(ctx, step, kind.load, three.bare, three.inside, three.wire); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		kind.report(three)
	}
	return nil
}

// parts returns what each value is of the one that was measured right before or after it, so that
// other work on the machine changes both.
func parts(values, of []float64) (list []float64) {
	for i := range values {
		list = append(list, values[i]/of[i])
	}
	return list
}

func (b *bench) reportInsideCache(t trio) {
	r, part := b.Report, parts(t.inside.rate, t.bare.rate)
	r.Add("inside.cache.rate", fmt.Sprintf("inside a pod: token from cache, %d keep-alive connections", connections), "/s", t.inside.rate)
	r.Add("inside.cache.bare.rate", "… a bare net/http server with a listener in the same pod", "/s", t.bare.rate).
		Remark("the load generator needs %.0f µs of CPU time for a request", 1e6*measure.Middle(t.bare.generator))
	r.Add("inside.cache.ratio", "… NMI's part of its rate, by turn", "", part).AtLeast(0.75, measure.Middle)
	r.Add("inside.cache.cost", "… NMI's CPU time for a request", "s", t.inside.cost)
	r.Add("inside.cache.bare.cost", "… the bare server's", "s", t.bare.cost)
	r.Add("inside.cache.wire.rate", "… NMI on the wire", "/s", t.wire.rate)
	r.Add("inside.cache.wire.cost", "… NMI's CPU time for a request on the wire", "s", t.wire.cost)
	b.Said = fmt.Sprintf("%.2f of a bare server", measure.Middle(part))
}

func (b *bench) reportInsideSingle(t trio) {
	r, part := b.Report, parts(t.inside.p50, t.wire.p50)
	r.Add("inside.single.p50", "inside a pod: token from cache, one connection: p50 of each turn", "s", t.inside.p50)
	r.Add("inside.single.wire.p50", "… on the wire", "s", t.wire.p50)
	r.Add("inside.single.ratio", "… in units of the wire's, by turn", "", part).AtMost(1, measure.Middle)
	r.Add("inside.single.bare.p50", "… p50 of the bare server", "s", t.bare.p50)
	b.Said += fmt.Sprintf(", p50 %.0f µs (wire %.0f µs)", 1e6*measure.Middle(t.inside.p50), 1e6*measure.Middle(t.wire.p50))
}

func (b *bench) reportInsideFresh(t trio) {
	r, part := b.Report, parts(t.inside.rate, t.wire.rate)
	r.Add("inside.fresh.rate", fmt.Sprintf("inside a pod: a new connection for each, %d at a time", connections), "/s", t.inside.rate)
	r.Add("inside.fresh.wire.rate", "… on the wire", "/s", t.wire.rate)
	r.Add("inside.fresh.ratio", "… in units of the wire's, by turn", "", part).AtLeast(0.8, measure.Middle)
	r.Add("inside.fresh.bare.rate", "… a bare net/http server", "/s", t.bare.rate).
		Remark("the load generator needs %.0f µs of CPU time for a connection", 1e6*measure.Middle(t.bare.generator))
	r.Add("inside.fresh.cost", "… NMI's CPU time for a request", "s", t.inside.cost)
	r.Add("inside.fresh.wire.cost", "… on the wire", "s", t.wire.cost)
	r.Add("inside.fresh.bare.cost", "… the bare server's", "s", t.bare.cost)
	b.Said += fmt.Sprintf(", %.2f of the wire's new connections", measure.Middle(part))
}
