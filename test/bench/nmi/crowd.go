// Row crowd: 250 pods with networks of their own. How much memory NMI and its holder need, what
// fails when NMI is killed, and how long it takes to start again.

package nmi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/load"
	"github.com/podid-io/podid/test/bench/measure"
)

const (
	// crowdTime is how long the pods ask while memory is sampled.
	crowdTime = 20 * time.Second
	// killTime is for one death: before it, without NMI, and after it.
	killTime = 8 * time.Second
	// deadTime is how long NMI is gone.
	deadTime = time.Second
	kills    = 3
	restarts = 5
)

func (b *bench) crowd(ctx context.Context, step *progress.Step) error {
	return b.node.withPair(ctx, func(p *pair) error {
		step.Far("starting %d pods", manyPods)
		return p.withPods(ctx, manyPods, func(pods []*innerPod) error {
			b.Said = ""
			return errors.Join(b.crowdMemory(ctx, step, p, pods), b.killed(ctx, step, p, pods), b.restarted(ctx, step, p, pods))
		})
	})
}

// sendAll makes all pods send their part of a rate, at different times, and adds up what they got.
func sendAll(pods []*innerPod, s load.Spec) (sum load.Result, err error) {
	gap := time.Duration(float64(time.Second) / s.Rate)
	s.Rate /= float64(len(pods))
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, pod := range pods {
		all.Go(func() {
			r, failure := pod.order(order{Load: new(inside(s))})
			mu.Lock()
			defer mu.Unlock()
			err = errors.Join(err, failure)
			if sum.Failed == 0 {
				sum.Text = r.Text
			}
			sum.Requests, sum.Failed, sum.Again = sum.Requests+r.Requests, sum.Failed+r.Failed, sum.Again+r.Again
			sum.P99, sum.Max = max(sum.P99, r.P99), max(sum.Max, r.Max)
		})
		<-time.After(gap) // so that not all are due at once
	}
	all.Wait()
	return sum, err
}

// crowdMemory samples NMI and the holder while all pods ask.
func (b *bench) crowdMemory(ctx context.Context, step *progress.Step, p *pair, pods []*innerPod) error {
	step.Far("%d pods ask", len(pods))
	agent, holder := measure.Sample(ctx, p.agent.PID()), measure.Sample(ctx, p.holder.PID())
	profiled := b.profile(ctx, "crowd", true)
	r, err := sendAll(pods, load.Spec{Connections: 1, Rate: manyRate, Length: crowdTime})
	agents, holders := agent(), holder()
	if err == nil {
		err = profiled()
	}
	if err == nil && r.Failed > 0 {
		err = fmt.Errorf("%d of %d requests failed: %s", r.Failed, r.Requests, r.Text)
	}
	if err != nil {
		return err
	}
	rss, anonymous := worst(agents)
	b.Report.Add("crowd.memory", fmt.Sprintf("%d pods with listeners, %d requests/s: NMI's memory (RSS)", len(pods), manyRate), "MiB", []float64{rss}).
		AtMost(45, measure.Worst).Remark("%.1f MiB without the program's own file", anonymous)
	held, heldAnonymous := worst(holders)
	b.Report.Add("crowd.holder", "… the holder's", "MiB", []float64{held}).AtMost(12, measure.Worst).
		Remark("%.1f MiB without the program's own file", heldAnonymous)
	b.Said = fmt.Sprintf("%.1f + %.1f MiB", rss, held)
	return nil
}

// worst returns the most memory among samples.
func worst(all []measure.Memory) (rss, anonymous float64) {
	for _, m := range all {
		rss, anonymous = max(rss, m.RSS), max(anonymous, m.Anonymous)
	}
	return rss, anonymous
}

// killed kills NMI while all pods ask, and starts it again after a while. The holder stays.
func (b *bench) killed(ctx context.Context, step *progress.Step, p *pair, pods []*innerPod) error {
	for _, kind := range []struct {
		id, what string
		fresh    bool
	}{
		{"killed.fresh", "a new connection for each request", true},
		{"killed.kept", "keep-alive connections", false},
	} {
		var failed []float64
		sum := load.Result{}
		for i := range kills {
			step.Far("NMI is killed, %s, %d of %d", kind.what, i, kills)
			r, err := b.killUnder(ctx, p, pods, load.Spec{Connections: 8, Rate: rollRate, Length: killTime, Fresh: kind.fresh})
			if err != nil {
				return err
			}
			failed = append(failed, float64(r.Failed))
			sum.Requests, sum.Again, sum.Max = sum.Requests+r.Requests, sum.Again+r.Again, max(sum.Max, r.Max)
			if r.Failed > 0 {
				sum.Text = r.Text
			}
		}
		b.Report.Add(kind.id, fmt.Sprintf("NMI killed under %d requests/s of %d pods, started again %s later, %s: failed each time", rollRate, len(pods), deadTime, kind.what), "", failed).
			AtMost(1, measure.Worst).
			Remark("of %d requests in all; %d sent again as HTTP clients do, because an idle connection was closed; max %.2f s. %s", sum.Requests, sum.Again, sum.Max, sum.Text)
		b.Said += fmt.Sprintf(", %.0f failed", measure.Worst(failed))
	}
	return nil
}

// killUnder kills NMI once.
func (b *bench) killUnder(ctx context.Context, p *pair, pods []*innerPod, s load.Spec) (load.Result, error) {
	type outcome struct {
		load.Result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := sendAll(pods, s)
		done <- outcome{r, err}
	}()
	measure.Pause(ctx, killTime/4)
	err := p.agent.Stop(syscall.SIGKILL)
	measure.Pause(ctx, deadTime)
	if err == nil {
		err = p.startAgent(ctx)
	}
	got := <-done
	return got.Result, errors.Join(err, got.err)
}

// restarted measures how long NMI takes to start, with the pods' listeners at the holder.
func (b *bench) restarted(ctx context.Context, step *progress.Step, p *pair, pods []*innerPod) error {
	var ready, used []float64
	for i := range restarts {
		step.Far("NMI starts again, %d of %d", i, restarts)
		if err := p.agent.Stop(syscall.SIGKILL); err != nil {
			return err
		}
		if err := p.startAgent(ctx); err != nil {
			return err
		}
		ready = append(ready, time.Since(p.agent.Began).Seconds())
		cpu, err := p.agent.CPU()
		if err != nil {
			return err
		}
		used = append(used, cpu)
		for _, pod := range pods {
			if _, err := pod.send(inside(load.Spec{Connections: 1, Requests: 1, Length: requestTime})); err != nil {
				return err
			}
		}
	}
	b.Report.Add("restart.ready", fmt.Sprintf("NMI started again with %d pods: ready, and captures inside pods", len(pods)), "s", ready).
		AtMost(1, measure.Worst).Remark("%.2f s of CPU time until then; each pod got a token after it", measure.Middle(used))
	b.Said += fmt.Sprintf(", ready in %.2f s", measure.Worst(ready))
	return nil
}
