// Rows outage and many: requests of all pods of the node.

package nmi

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/load"
	"github.com/podid-io/podid/test/bench/measure"
)

const (
	identityPath = "/metadata/identity/*"
	outageRate   = 500
	manyRate     = 1000
)

// allPods returns the load of all pods of the node, with one connection each.
func allPods(rate float64, length time.Duration) load.Spec {
	return toNMI(load.Spec{Connections: manyPods, Sources: podAddresses(manyPods), Rate: rate, Length: length})
}

// tokenLifetime returns a lifetime slightly longer than an outage, so that NMI tries to refresh
// tokens meanwhile. NMI returns tokens in their last quarter only if it cannot get newer ones. NMI
// has the tokens a few seconds before the outage, and their times are whole seconds.
func tokenLifetime(outage time.Duration) time.Duration { return outage + outage/10 + 4*time.Second }

// outage makes the metadata service fail in three ways.
func (b *bench) outage(ctx context.Context, step *progress.Step) error {
	n, each := b.node, b.options.outage/3
	faults := []world.Fault{{Status: 500}, {Status: 429, RetryAfter: 5}, {Hang: true}}
	said := []string{"500", "429", "hang"}
	healthy, err := b.healthy(ctx, each)
	if err != nil {
		return err
	}
	for i, f := range faults {
		err := n.withTokenLifetime(ctx, tokenLifetime(each), func() error {
			return n.withNMI(ctx, func(*nmiProgram) error {
				step.Far("%s, for %s", said[i], each)
				if _, err := n.send(allPods(outageRate, time.Second)); err != nil { // fetches their tokens
					return err
				}
				f.Name, f.Surface, f.Path = "outage", world.SurfaceIMDS, identityPath
				if err := n.stage.Azure.SetFault(ctx, f); err != nil {
					return err
				}
				r, err := n.order(order{Load: new(allPods(outageRate, each))})
				calls, logErr := n.imdsCalls(ctx, r.Began)
				if err == nil {
					err = logErr
				}
				if undone := n.stage.Azure.RemoveFault(ctx, "outage"); err == nil {
					err = undone
				}
				if err != nil {
					return err
				}
				b.reportOutage(said[i], r, calls)
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("metadata service fails (%s): %w", said[i], err)
		}
	}
	b.Report.Add("outage.none.p99", "… p99 while it is well, to compare", "s", []float64{healthy.P99}).
		Remark("p50 %.2f ms, p99.9 %.1f ms, max %.0f ms", 1e3*healthy.P50, 1e3*healthy.P999, 1e3*healthy.Max)
	return nil
}

// healthy measures the same load without failures, to show the effect of other programs on the
// machine.
func (b *bench) healthy(ctx context.Context, d time.Duration) (r load.Result, err error) {
	err = b.node.withNMI(ctx, func(*nmiProgram) error {
		if _, err := b.node.send(allPods(outageRate, time.Second)); err != nil {
			return err
		}
		r, err = b.node.send(allPods(outageRate, d))
		return err
	})
	return r, err
}

func (b *bench) reportOutage(kind string, r load.Result, calls int) {
	answered := 100 * float64(r.Requests-r.Failed) / float64(r.Requests)
	what := "… " + kind
	if kind == "500" {
		what = fmt.Sprintf("metadata service fails for %s with valid tokens held, %d requests/s: 500", b.options.outage/3, outageRate)
		b.Said = ""
	}
	f := b.Report.Add("outage."+kind, what+": answered", "%", []float64{answered}).Was("0 %")
	f.AtLeast(100, measure.Worst)
	f.Remark("%d requests; the metadata service was asked %d times meanwhile", r.Requests, calls)
	if r.Failed > 0 {
		f.Remark("%d of %d failed: %s", r.Failed, r.Requests, r.Text)
	}
	b.Report.Add("outage."+kind+".p99", "… "+kind+": p99", "s", []float64{r.P99}).AtMost(5e-3, measure.Worst).
		Remark("p50 %.2f ms, p99.9 %.1f ms, max %.0f ms after %.1f s", 1e3*r.P50, 1e3*r.P999, 1e3*r.Max, r.MaxAt)
	b.Said = strings.TrimPrefix(fmt.Sprintf("%s, %s %.0f %% p99 %.1f ms", b.Said, kind, answered, 1e3*r.P99), ", ")
}

// withTokenLifetime sets the lifetime of the metadata service's tokens while f runs.
func (n *node) withTokenLifetime(ctx context.Context, d time.Duration, f func() error) error {
	set := func(d time.Duration) error {
		return n.stage.Azure.SetSettings(ctx, map[string]any{"imds": map[string]any{"tokenLifetime": d.String(), "cacheTokens": false}})
	}
	if err := set(d); err != nil {
		return err
	}
	err := f()
	if undone := set(24 * time.Hour); err == nil {
		err = undone
	}
	return err
}

// imdsCalls returns the number of token requests to the metadata service since then.
func (n *node) imdsCalls(ctx context.Context, since time.Time) (int, error) {
	requests, err := n.stage.Azure.Requests(ctx, world.Filter{Surface: world.SurfaceIMDS, Path: identityPath}, 0)
	if err != nil {
		return 0, fmt.Errorf("read what the metadata service was asked: %w", err)
	}
	calls := 0
	for _, r := range requests {
		if r.Time.After(since) {
			calls++
		}
	}
	return calls, nil
}

func (b *bench) many(ctx context.Context, step *progress.Step) error {
	n := b.node
	return n.withNMI(ctx, func(p *nmiProgram) error {
		step.Far("for %s", b.options.many)
		began := time.Now()
		before, err := p.CPU()
		if err != nil {
			return err
		}
		sampled := measure.Sample(ctx, p.PID())
		profiled := b.profile(ctx, "many", true)
		r, err := n.send(allPods(manyRate, b.options.many))
		memory := sampled()
		if err != nil {
			return err
		}
		after, err := p.CPU()
		if err != nil {
			return err
		}
		calls, err := n.imdsCalls(ctx, began)
		if err != nil {
			return err
		}
		var rss, anonymous []float64
		for _, m := range memory {
			rss, anonymous = append(rss, m.RSS), append(anonymous, m.Anonymous)
		}
		what := fmt.Sprintf("%d pods, %d identities, %d requests/s for %s", manyPods, manyIdentities, manyRate, b.options.many)
		b.Report.Add("many.memory", what+": NMI's memory (RSS)", "MiB", []float64{measure.Worst(rss)}).AtMost(60, measure.Worst).
			Remark("%.1f MiB without the program's own file; NMI used %.1f %% of a CPU", measure.Worst(anonymous), 100*(after-before)/r.Ended.Sub(r.Began).Seconds())
		b.Report.Add("many.calls", "… calls of the metadata service", "", []float64{float64(calls)}).AtMost(manyIdentities, measure.Worst).
			Remark("tokens live a day, so none is refreshed")
		b.Report.Add("many.failed", "… errors", "", []float64{float64(r.Failed)}).AtMost(0, measure.Worst).Remark("of %d requests", r.Requests)
		b.Report.Add("many.p99", "… p99, from when a request was due", "s", []float64{r.P99}).Remark("p50 %.2f ms, max %.0f ms", 1e3*r.P50, 1e3*r.Max)
		b.Said = fmt.Sprintf("%.1f MiB, %d calls, p99 %.1f ms", measure.Worst(rss), calls, 1e3*r.P99)
		return profiled()
	})
}
