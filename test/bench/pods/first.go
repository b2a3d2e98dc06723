// How long a new pod waits for its first token.

package pods

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
)

const (
	// podTime is how long one pod may take from its creation to its end.
	podTime = time.Minute
	// manyTime is when the last pod is started: a busy machine is measured with fewer pods.
	manyTime = 100 * time.Second
	coldTime = 80 * time.Second
	enough   = 5
)

// asked is one pod that requested one token.
type asked struct {
	name string
	podSeen
}

// first runs a pod that requests a token and returns what was seen of it. It fails if the pod got
// no token.
func (b *bench) first(ctx context.Context, name, label string) (asked, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, podTime, fmt.Errorf("it took longer than %s", podTime))
	defer cancel()
	if err := b.seen.wait(ctx, func() bool { return b.seen.accounts[namespace] }); err != nil {
		return asked{}, fmt.Errorf("wait for the service account of namespace %s: %w", namespace, err)
	}
	if err := b.create(ctx, asker(name, label, "first")); err != nil {
		return asked{}, err
	}
	p, err := b.seen.pod(ctx, namespace+"/"+name)
	if err != nil {
		return asked{}, err
	}
	if p.outcome.Status != 200 || p.outcome.Text != "" {
		return asked{}, fmt.Errorf("pod %s got no token: status %d: %s", name, p.outcome.Status, p.outcome.Text)
	}
	b.answer = p.outcome.Bytes
	return asked{name, p}, nil
}

// between returns a duration of every pod, in seconds.
func between(pods []asked, f func(asked) time.Duration) []float64 {
	var out []float64
	for _, p := range pods {
		out = append(out, f(p).Seconds())
	}
	return out
}

func fromBegan(p asked) time.Duration     { return p.outcome.Answered.Sub(p.outcome.Began) }
func fromScheduled(p asked) time.Duration { return p.outcome.Answered.Sub(p.scheduled) }

// fromKnown measures from when the pod runs and the API server has published its address. Before
// that, only the kubelet can know the address. Tokens may arrive before the benchmark's own watch
// reports it.
func fromKnown(p asked) time.Duration {
	known := p.outcome.Began
	if p.addressed.After(known) {
		known = p.addressed
	}
	return max(p.outcome.Answered.Sub(known), 0)
}

func (b *bench) cold(ctx context.Context, step *progress.Step) error {
	var pods []asked
	began := time.Now()
	for i := range b.options.cold {
		if time.Since(began) > coldTime && i >= enough {
			break
		}
		step.Far("%d of %d pods", i, b.options.cold)
		p, err := b.first(ctx, "cold-"+strconv.Itoa(i), "cold-"+strconv.Itoa(i))
		if err != nil {
			return err
		}
		pods = append(pods, p)
	}
	patches, err := b.updates(ctx, "cold-")
	if err != nil {
		return err
	}
	var after, asking []float64
	for _, p := range pods {
		at, ok := patches[p.name]
		if !ok {
			return fmt.Errorf("identity %s was never put on the scale set", p.name)
		}
		after = append(after, p.outcome.Answered.Sub(at.Add(armUpdate)).Seconds())
		asking = append(asking, at.Sub(p.scheduled).Seconds())
	}
	r := b.Report
	r.Add("cold.running", "identity not on the scale set: pod's program starts → token", "s", between(pods, fromBegan)).
		AtMost((armUpdate+300*time.Millisecond).Seconds(), measure.Worst).Remark("target: ARM's %v + 0.3 s", armUpdate)
	r.Add("cold.after", "identity not on the scale set: ARM's update ends → token", "s", after).AtMost(0.3, measure.Worst)
	r.Add("cold.asking", "identity not on the scale set: pod scheduled → MIC asks ARM", "s", asking)
	r.Add("cold.scheduled", "identity not on the scale set: pod scheduled → token", "s", between(pods, fromScheduled))
	b.Said = fmt.Sprintf("%d pods, %.2f s at most", len(pods), measure.Worst(between(pods, fromBegan)))
	return nil
}

// updates returns when ARM was asked to assign each of the identities with this prefix to a scale
// set.
func (b *bench) updates(ctx context.Context, prefix string) (map[string]time.Time, error) {
	log, err := b.azureLog(ctx, "arm", "PATCH", "")
	if err != nil {
		return nil, err
	}
	out := map[string]time.Time{}
	for _, r := range log {
		if r.Status/100 != 2 {
			continue
		}
		for id := range strings.FieldsSeq(r.Details["added"]) {
			if name := strings.ToLower(id[strings.LastIndex(id, "/")+1:]); strings.HasPrefix(name, "bench-"+prefix) {
				out[strings.TrimPrefix(name, "bench-")] = r.Time
			}
		}
	}
	return out, nil
}

func (b *bench) burst(ctx context.Context, step *progress.Step) error {
	pods, err := b.many(ctx, step, b.options.burst, b.options.burst, func(i int) (string, string) {
		return "burst-" + strconv.Itoa(i), "burst-" + strconv.Itoa(i)
	})
	if err != nil {
		return err
	}
	patches, err := b.updates(ctx, "burst-")
	if err != nil {
		return err
	}
	distinct := map[time.Time]bool{}
	for _, at := range patches {
		distinct[at] = true
	}
	b.Report.Add("burst.running", fmt.Sprintf("%d pods with %d identities at once: pod's program starts → token", len(pods), len(pods)), "s", between(pods, fromBegan))
	b.Report.Add("burst.updates", fmt.Sprintf("%d pods with %d identities at once: updates of the scale set", len(pods), len(pods)), "", []float64{float64(len(distinct))})
	b.Said = fmt.Sprintf("%d pods, %d updates", len(pods), len(distinct))
	return nil
}

func (b *bench) warm(ctx context.Context, step *progress.Step) error {
	pods, err := b.many(ctx, step, b.options.warm, b.options.busy, func(i int) (string, string) {
		return "warm-" + strconv.Itoa(i), "cold-" + strconv.Itoa(i%min(enough, b.options.cold))
	})
	if err != nil {
		return err
	}
	r := b.Report
	known := between(pods, fromKnown)
	r.Add("warm.running", "identity there: pod runs and its address is known → token", "s", known).AtMost(0.1, measure.P99)
	began := r.Add("warm.began", "identity there: pod's program starts → token", "s", between(pods, fromBegan))
	if b.inPods() { // no pod waits for its address
		began.AtMost(0.01, measure.Middle)
		r.Add("warm.began.p99", "the slowest hundredth of them", "s", []float64{measure.P99(between(pods, fromBegan))}).AtMost(0.1, measure.Worst)
	}
	r.Add("warm.kubelet", "identity there: pod's program starts → API server knows its address", "s", between(pods, func(p asked) time.Duration {
		return max(p.addressed.Sub(p.outcome.Began), 0)
	})).Remark("the kubelet's part of the line above")
	r.Add("warm.scheduled", "identity there: pod scheduled → token", "s", between(pods, fromScheduled))
	b.Said = fmt.Sprintf("%d pods, measure.P99 %.0f ms", len(pods), 1000*measure.P99(known))
	return nil
}

// many runs n pods, atOnce at a time, or as many as the time allows.
func (b *bench) many(ctx context.Context, step *progress.Step, n, atOnce int, names func(int) (name, label string)) ([]asked, error) {
	var mu sync.Mutex
	var pods []asked
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	began := time.Now()
	for i := range n {
		group.Go(func() error {
			if i > enough && time.Since(began) > manyTime {
				return nil
			}
			name, label := names(i)
			p, err := b.first(ctx, name, label)
			mu.Lock()
			defer mu.Unlock()
			pods = append(pods, p)
			step.Far("%d of %d pods", len(pods), n)
			return err
		})
	}
	err := group.Wait()
	return pods, err
}
