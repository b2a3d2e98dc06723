// Rows cache, single and fresh: tokens in NMI's cache, compared with a server that makes no
// decisions.

package nmi

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/load"
	"github.com/podid-io/podid/test/bench/measure"
	"github.com/podid-io/podid/test/bench/stage"
)

// target holds the measurements of one of the two servers, a value for each turn.
type target struct {
	rate, p50, p99, cost, generator []float64
}

// contender is a server and the way to it.
type contender struct {
	target
	name    string
	program *stage.Program
	pods    *sender
	to      func(load.Spec) load.Spec
	// profile is the name of the profile of its first turn, "" for none.
	profile string
}

// turn sends a load, and records what was measured unless it is to warm up.
func (c *contender) turn(s load.Spec, warmUp bool) error {
	before, err := c.program.CPU()
	if err != nil {
		return err
	}
	r, err := c.pods.send(c.to(s))
	if err != nil {
		return err
	}
	after, err := c.program.CPU()
	if warmUp || err != nil {
		return err
	}
	c.rate, c.p50, c.p99 = append(c.rate, r.Rate()), append(c.p50, r.P50), append(c.p99, r.P99)
	c.cost = append(c.cost, (after-before)/float64(r.Requests))
	c.generator = append(c.generator, r.CPU/float64(r.Requests))
	return nil
}

// turns gives each contender the same load, in turn. The first turn warms up.
func (b *bench) turns(ctx context.Context, step *progress.Step, s load.Spec, all ...*contender) error {
	for i := range b.options.rounds + 1 {
		step.Far("%d of %d turns", i, b.options.rounds)
		if s.Length = b.options.round; i == 0 {
			s.Length = time.Second
		}
		for _, c := range all {
			profiled := b.profile(ctx, c.profile, i == 1 && c.profile != "")
			if err := errors.Join(c.turn(s, i == 0), profiled()); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// duel runs the same load on NMI and the bare server in turns. Both have the same machine, pods,
// response, number of CPUs for Go code, and path through veth, nftables and connection tracking.
func (b *bench) duel(ctx context.Context, step *progress.Step, name string, procs int, s load.Spec) (nmi, bare target, err error) {
	n := b.node
	err = n.withNMI(ctx, func(agent *nmiProgram) error {
		first, err := n.send(toNMI(load.Spec{Connections: 1, Sources: s.Sources, Requests: len(s.Sources), Length: requestTime}))
		if err != nil {
			return err
		}
		return n.withBare(first.Body, procs, func(other *stage.Program) error {
			mine := &contender{name: "NMI", program: agent.Program, pods: n.pods, to: toNMI, profile: name}
			theirs := &contender{name: "bare server", program: other, pods: n.pods, to: toBare}
			err := b.turns(ctx, step, s, theirs, mine)
			nmi, bare = mine.target, theirs.target
			return err
		})
	}, fmt.Sprintf("GOMAXPROCS=%d", procs))
	return nmi, bare, err
}

const connections = 32

func (b *bench) cache(ctx context.Context, step *progress.Step) error {
	s := load.Spec{Connections: connections, Sources: podAddresses(1)}
	nmi, bare, err := b.duel(ctx, step, "cache", 1, s)
	if err != nil {
		return err
	}
	r := b.Report
	ratio, slower := measure.Middle(nmi.rate)/measure.Middle(bare.rate), measure.Middle(nmi.p99)/measure.Middle(bare.p99)
	r.Add("cache.rate", fmt.Sprintf("token from cache, %d keep-alive connections", connections), "/s", nmi.rate).Was("2,700/s").
		Remark("GOMAXPROCS=1, as NMI has by default, for both servers")
	r.Add("cache.bare.rate", "… a bare net/http server", "/s", bare.rate).Remark("the load generator needs %.0f µs of CPU time for a request", 1e6*measure.Middle(bare.generator))
	r.Add("cache.ratio", "… NMI's part of its rate", "", []float64{ratio}).AtLeast(0.6, measure.Middle)
	r.Add("cache.p99", "… p99 of each turn", "s", nmi.p99)
	r.Add("cache.bare.p99", "… p99 of the bare server", "s", bare.p99)
	r.Add("cache.p99.ratio", "… NMI's p99 in units of that", "", []float64{slower}).AtMost(2, measure.Middle)
	r.Add("cache.cost", "… NMI's CPU time for a request", "s", nmi.cost).AtMost(30e-6, measure.Middle).Was("574 µs")
	r.Add("cache.bare.cost", "… the bare server's", "s", bare.cost)
	b.Said = fmt.Sprintf("%.0f/s, %.2f of a bare server, %.1f µs", measure.Middle(nmi.rate), ratio, 1e6*measure.Middle(nmi.cost))
	procs := runtime.NumCPU()
	nmi, bare, err = b.duel(ctx, step, "cache-unrestricted", procs, s)
	if err != nil {
		return err
	}
	r.Add("cache.all.rate", fmt.Sprintf("… with GOMAXPROCS=%d", procs), "/s", nmi.rate)
	r.Add("cache.all.bare.rate", fmt.Sprintf("… a bare net/http server with GOMAXPROCS=%d", procs), "/s", bare.rate)
	r.Add("cache.all.ratio", "… NMI's part of its rate", "", []float64{measure.Middle(nmi.rate) / measure.Middle(bare.rate)})
	r.Add("cache.all.cost", "… NMI's CPU time for a request", "s", nmi.cost)
	r.Add("cache.all.bare.cost", "… the bare server's", "s", bare.cost)
	return nil
}

func (b *bench) single(ctx context.Context, step *progress.Step) error {
	nmi, bare, err := b.duel(ctx, step, "single", 1, load.Spec{Connections: 1, Sources: podAddresses(1)})
	if err != nil {
		return err
	}
	r := b.Report
	r.Add("single.p50", "token from cache, one connection: p50 of each turn", "s", nmi.p50).AtMost(100e-6, measure.Middle).Was("0.41 ms")
	r.Add("single.p99", "… p99 of each turn", "s", nmi.p99).AtMost(500e-6, measure.Middle).Was("1.5 ms")
	r.Add("single.bare.p50", "… p50 of a bare net/http server", "s", bare.p50)
	r.Add("single.bare.p99", "… p99 of a bare net/http server", "s", bare.p99)
	b.Said = fmt.Sprintf("p50 %.0f µs, p99 %.0f µs", 1e6*measure.Middle(nmi.p50), 1e6*measure.Middle(nmi.p99))
	return nil
}

func (b *bench) fresh(ctx context.Context, step *progress.Step) error {
	// Eight pods, because one address does not have enough ports.
	nmi, bare, err := b.duel(ctx, step, "fresh", 1, load.Spec{Connections: connections, Sources: podAddresses(8), Fresh: true})
	if err != nil {
		return err
	}
	r := b.Report
	r.Add("fresh.rate", fmt.Sprintf("token from cache, a new connection for each, %d at a time", connections), "/s", nmi.rate).
		AtLeast(8000, measure.Middle)
	r.Add("fresh.bare.rate", "… a bare net/http server", "/s", bare.rate).
		Remark("the load generator needs %.0f µs of CPU time for a connection", 1e6*measure.Middle(bare.generator))
	r.Add("fresh.p99", "… p99 of each turn", "s", nmi.p99)
	r.Add("fresh.cost", "… NMI's CPU time for a request", "s", nmi.cost)
	r.Add("fresh.bare.cost", "… the bare server's", "s", bare.cost)
	b.Said = fmt.Sprintf("%.0f/s, a bare server %.0f/s", measure.Middle(nmi.rate), measure.Middle(bare.rate))
	return nil
}
