// Row roll: NMI is replaced while pods send requests, like a DaemonSet update that starts the new
// pod before it stops the old one.

package nmi

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/load"
	"github.com/podid-io/podid/test/bench/measure"
)

const (
	rollRate = 500
	// rollTime is for one replacement: the new NMI becomes ready, both run, the old one ends.
	rollTime  = 8 * time.Second
	bothThere = 2 * time.Second
)

func (b *bench) roll(ctx context.Context, step *progress.Step) error {
	failed, requests := 0, 0
	b.Said = ""
	for _, kind := range []struct {
		id, what string
		fresh    bool
	}{
		{"roll.kept", "keep-alive connections", false},
		{"roll.fresh", "a new connection for each", true},
	} {
		r, err := b.rollUnder(ctx, step, kind.what, kind.fresh)
		if err != nil {
			return err
		}
		failed, requests = failed+r.Failed, requests+r.Requests
		f := b.Report.Add(kind.id, fmt.Sprintf("NMI rolled %d times under %d requests/s, %s: failed", b.options.rolls, rollRate, kind.what), "", []float64{float64(r.Failed)}).
			AtMost(0, measure.Worst).Was("fails")
		f.Remark("%d requests, %d sent again as HTTP clients do, because an idle connection was closed; p99 %.1f ms, max %.0f ms",
			r.Requests, r.Again, 1e3*r.P99, 1e3*r.Max)
		if r.Failed > 0 {
			f.Remark("%d of %d failed: %s", r.Failed, r.Requests, r.Text)
		}
	}
	b.Said = fmt.Sprintf("%d of %d failed", failed, requests)
	return nil
}

// rollUnder replaces NMI several times under load.
func (b *bench) rollUnder(ctx context.Context, step *progress.Step, what string, fresh bool) (load.Result, error) {
	n := b.node
	current, err := n.startNMI(ctx, 0)
	if err != nil {
		return load.Result{}, err
	}
	defer func() { _ = current.Stop(syscall.SIGTERM) }() // it was stopped unless something failed
	if _, err := n.send(allPods(manyRate, time.Second)); err != nil {
		return load.Result{}, err
	}
	s := allPods(rollRate, time.Duration(b.options.rolls)*rollTime)
	s.Fresh = fresh
	type outcome struct {
		load.Result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := n.order(order{Load: &s})
		done <- outcome{r, err}
	}()
	var rolled error
	for i := 0; i < b.options.rolls && rolled == nil; i++ {
		step.Far("%s, %d of %d", what, i, b.options.rolls)
		ends := time.Now().Add(rollTime)
		var next *nmiProgram
		if next, rolled = n.startNMI(ctx, (i+1)%2); rolled != nil {
			break
		}
		measure.Pause(ctx, bothThere)
		rolled = current.Stop(syscall.SIGTERM)
		current = next
		measure.Pause(ctx, time.Until(ends)-time.Second/2)
	}
	got := <-done
	return got.Result, errors.Join(got.err, rolled, current.Stop(syscall.SIGTERM))
}
