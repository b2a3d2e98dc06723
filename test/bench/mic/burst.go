// Rows burst, steady and bad: new pods with new identities, while MIC runs.

package mic

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
)

const (
	usualARM = 2 * time.Second
	// rowTime bounds what a row waits for.
	rowTime = 2 * time.Minute
)

// running creates a cluster with a MIC that leads and is idle.
func (b *bench) running(ctx context.Context, s shape, f func(context.Context, *cluster, *program) error) error {
	return b.with(ctx, s, func(c *cluster) error {
		mic, err := c.mic(b, "mic", 0)
		if err != nil {
			return err
		}
		if err := mic.leads(ctx); err != nil {
			return err
		}
		if _, err := c.audit.rest(ctx); err != nil {
			return err
		}
		bound := rowTime
		if s.vms {
			bound = fleetTime
		}
		ctx, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("it took longer than %s", bound))
		defer cancel()
		return f(ctx, c, mic)
	})
}

func (b *bench) burst(ctx context.Context, step *progress.Step) error {
	const pods = 40
	s := shape{nodes: 4, sets: 1, identities: pods, arm: usualARM}
	return b.running(ctx, s, func(ctx context.Context, c *cluster, _ *program) error {
		began := time.Now()
		if err := c.createPods(ctx, s, 0, pods, func(int) {}); err != nil {
			return err
		}
		created := time.Since(began)
		if err := c.seen.all(ctx, pods, func(n int) { step.Far("%d of %d are assigned", n, pods) }); err != nil {
			return err
		}
		took := c.seen.last().Sub(began)
		written, err := c.audit.rest(ctx)
		if err != nil {
			return err
		}
		updates, err := c.updates(ctx)
		if err != nil {
			return err
		}
		r := b.Report
		r.Add("burst.assigned", "40 pods with 40 identities at once, 4 nodes, 1 scale set: all assigned", "s", []float64{took.Seconds()}).
			AtMost(4.6, measure.Worst).Was("23.9 s").Remark("creating the pods took %.0f ms of it; ARM takes %s", 1000*created.Seconds(), usualARM)
		r.Add("burst.updates", "… updates of the scale set", "", []float64{float64(len(updates))}).AtMost(2, measure.Worst).Remark("%s", sizes(updates))
		r.Add("burst.writes", "… writes to the API server for each assigned identity", "", []float64{float64(written.total()) / pods}).
			AtMost(2, measure.Worst).Remark("%s", written)
		b.Said = fmt.Sprintf("%.1f s, %d updates", took.Seconds(), len(updates))
		return nil
	})
}

func (b *bench) steady(ctx context.Context, step *progress.Step) error {
	const pods, arm = 20, 5 * time.Second
	s := shape{nodes: 4, sets: 2, identities: pods, arm: arm}
	return b.running(ctx, s, func(ctx context.Context, c *cluster, _ *program) error {
		began := map[string]time.Time{}
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := range pods {
			p := newPod("pod-"+strconv.Itoa(i), i, nodeName(i%s.nodes))
			began[key(p)] = time.Now()
			if err := c.create(ctx, p); err != nil {
				return err
			}
			step.Far("%d of %d pods", i+1, pods)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		var took []float64
		for name, at := range began {
			assigned, err := c.seen.pod(ctx, name)
			if err != nil {
				return err
			}
			took = append(took, assigned.Sub(at).Seconds())
		}
		updates, err := c.updates(ctx)
		if err != nil {
			return err
		}
		r := b.Report
		r.Add("steady.p50", "a new pod with a new identity each second for 20 s, 2 scale sets, ARM 5 s: p50", "s", []float64{measure.Middle(took)}).
			AtMost(7.5, measure.Worst).Was("8.3 s").Remark("%d updates: %s", len(updates), sizes(updates))
		r.Add("steady.max", "… max", "s", []float64{measure.Worst(took)}).AtMost(10.6, measure.Worst).Was("11.1 s")
		b.Said = fmt.Sprintf("p50 %.1f s, max %.1f s", measure.Middle(took), measure.Worst(took))
		return nil
	})
}

// bad creates five pods at once. The identity of one of them does not exist on Azure.
func (b *bench) bad(ctx context.Context, step *progress.Step) error {
	const pods, good = 5, 4
	s := shape{nodes: 1, sets: 1, identities: pods, missing: pods - good, arm: usualARM}
	return b.running(ctx, s, func(ctx context.Context, c *cluster, _ *program) error {
		began := time.Now()
		if err := c.createPods(ctx, s, 0, pods, func(int) {}); err != nil {
			return err
		}
		if err := c.seen.all(ctx, good, func(n int) { step.Far("%d of %d are assigned", n, good) }); err != nil {
			return err
		}
		took := c.seen.last().Sub(began)
		log, err := c.Azure.Requests(ctx, world.Filter{Surface: "arm", Method: "PATCH"}, 0)
		if err != nil {
			return err
		}
		// The writes until all four were on the scale set, including refused ones.
		writes, on := 0, 0
		for _, r := range log {
			if writes++; r.Status/100 == 2 {
				on += len(strings.Fields(r.Details["added"]))
			}
			if on >= good {
				break
			}
		}
		reason := ""
		err = c.seen.wait(ctx, func() bool { reason = c.seen.reasons[key(s.pod(good))]; return reason != "" })
		if err != nil {
			return fmt.Errorf("wait until the bad identity has a reason: %w", err)
		}
		r := b.Report
		r.Add("bad.writes", "one bad identity among five: the others are on the scale set with which write to ARM", "", []float64{float64(writes)}).
			AtMost(2, measure.Worst).Remark("the bad one: %s", reason)
		r.Add("bad.assigned", "… the others are assigned", "s", []float64{took.Seconds()}).Was("12.3 s").Remark("ARM takes %s", usualARM)
		b.Said = fmt.Sprintf("write %d, %.1f s", writes, took.Seconds())
		return nil
	})
}

// update is a change of a scale set's identities that Azure has accepted.
type update struct {
	set   string
	added int
	// more reports that the log contains only the first of the added identities.
	more bool
}

// updates returns the updates in the emulated Azure's log.
func (c *cluster) updates(ctx context.Context) ([]update, error) {
	log, err := c.Azure.Requests(ctx, world.Filter{Surface: "arm", Method: "PATCH"}, 0)
	if err != nil {
		return nil, err
	}
	var list []update
	for _, r := range log {
		if r.Status/100 != 2 {
			continue
		}
		path, _, _ := strings.Cut(r.Path, "?")
		added := r.Details["added"]
		list = append(list, update{
			set:   path[strings.LastIndexByte(path, '/')+1:],
			added: len(strings.Fields(added)),
			more:  strings.HasSuffix(added, "…"),
		})
	}
	return list, nil
}

// sizes returns the number of identities that each update added.
func sizes(updates []update) string {
	var parts []string
	for _, u := range updates {
		part := fmt.Sprintf("%s +%d", u.set, u.added)
		if u.more {
			part += " or more"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}
