// Row fleet: nodes that are single VMs, so that one update no longer serves a whole rollout.

package mic

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
	"github.com/podid-io/podid/test/bench/stage"
)

const (
	fleetTime = 8 * time.Minute
	// fleetVMs is the number of nodes; each has podsPerVM pods.
	fleetVMs = 1000
	// throttledVM is the node whose first update Azure refuses with throttledFor.
	throttledVM  = 100
	throttledFor = 30 * time.Second
	// watched is how long the reads of the periodic comparison with Azure are counted.
	watched = time.Minute
)

// fleetFloor returns how long the limits alone keep an ideal client busy. Such a client reads a VM
// once before its update and once after it, because Azure does not report the end of an update by
// itself. The initial content of the buckets is spent at once.
func fleetFloor(vms int, limits world.Limits, arm time.Duration) time.Duration {
	seconds := 0.0
	for _, need := range []struct {
		calls int
		of    world.Bucket
	}{{vms, limits.Writes}, {2 * vms, limits.Reads}} {
		seconds = max(seconds, 60*float64(need.calls-need.of.Size)/float64(need.of.PerMinute))
	}
	return time.Duration(seconds*float64(time.Second)) + arm
}

func (b *bench) fleet(ctx context.Context, step *progress.Step) error {
	s := shape{nodes: fleetVMs, identities: 50, arm: usualARM, vms: true}
	const pods = fleetVMs * podsPerVM
	return b.running(ctx, s, func(ctx context.Context, c *cluster, mic *program) error {
		fault := world.Fault{
			Name: "one VM", Surface: world.SurfaceARM, Method: http.MethodPatch, Path: "*/" + nodeName(throttledVM),
			Status: http.StatusTooManyRequests, RetryAfter: int(throttledFor.Seconds()), Count: 1,
		}
		if err := c.Azure.SetFault(ctx, fault); err != nil {
			return err
		}
		before, err := c.Azure.Requests(ctx, world.Filter{Surface: world.SurfaceARM}, 0)
		if err != nil {
			return err
		}
		began := time.Now()
		created := make([]time.Time, pods)
		err = stage.Each(ctx, pods, func(ctx context.Context, i int) error {
			if i%100 == 0 {
				step.Far("%d of %d pods created", i, pods)
			}
			created[i] = time.Now()
			return c.create(ctx, s.pod(i))
		})
		if err != nil {
			return err
		}
		creating := time.Since(began)
		if err := c.seen.all(ctx, pods, func(n int) { step.Far("%d of %d are assigned", n, pods) }); err != nil {
			return fmt.Errorf("%w; MIC's last words: %s", err, mic.Tail())
		}
		got := fleetResult{began: began, creating: creating, took: c.seen.last().Sub(began)}
		if got.requests, err = c.Azure.Requests(ctx, world.Filter{Surface: world.SurfaceARM, After: lastSeq(before)}, 0); err != nil {
			return err
		}
		got.order(c, s, created)
		m, err := mic.Memory()
		if err != nil {
			return err
		}
		got.peak = m.Peak
		if got.driftReads, err = b.driftReads(ctx, c, step); err != nil {
			return err
		}
		b.reportFleet(s, got)
		return nil
	})
}

// fleetResult is the outcome of the row.
type fleetResult struct {
	began          time.Time
	took, creating time.Duration
	throttled      time.Duration // from its pods' creation until the throttled VM's pods were assigned
	passed         time.Duration // by how much a pod was assigned after one created passMargin later
	last           string        // that pod
	requests       []world.Request
	peak           float64
	driftReads     float64 // a second
}

// passMargin is how much later a pod must be created for it to count as served out of order.
// Creation takes some time, too.
const passMargin = 5 * time.Second

// order fills in the figures derived from the times of the pods.
func (r *fleetResult) order(c *cluster, s shape, created []time.Time) {
	type wait struct {
		pod               int
		created, assigned time.Time
	}
	var waits []wait
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	for i, at := range created {
		w := wait{i, at, c.seen.assigned[key(s.pod(i))]}
		if i/podsPerVM == throttledVM {
			r.throttled = max(r.throttled, w.assigned.Sub(w.created))
			continue
		}
		waits = append(waits, w)
	}
	slices.SortFunc(waits, func(a, b wait) int { return a.created.Compare(b.created) })
	var later time.Time // the earliest assignment among those created later by the margin
	next := len(waits) - 1
	for i, waited := range slices.Backward(waits) {
		for ; next > i && waits[next].created.Sub(waited.created) >= passMargin; next-- {
			if later.IsZero() || waits[next].assigned.Before(later) {
				later = waits[next].assigned
			}
		}
		if by := waited.assigned.Sub(later); !later.IsZero() && by > r.passed {
			r.passed = by
			r.last = fmt.Sprintf("pod %d on %s, created after %.1f s, assigned after %.1f s; one created later was assigned after %.1f s",
				waited.pod, nodeName(waited.pod/podsPerVM), waited.created.Sub(r.began).Seconds(),
				waited.assigned.Sub(r.began).Seconds(), later.Sub(r.began).Seconds())
		}
	}
}

// driftReads returns the reads per second of an idle MIC, which only compares.
func (b *bench) driftReads(ctx context.Context, c *cluster, step *progress.Step) (float64, error) {
	measure.Pause(ctx, calmDown) // Events are still being written, at their own rate
	before, err := c.Azure.Requests(ctx, world.Filter{Surface: world.SurfaceARM}, 0)
	if err != nil {
		return 0, err
	}
	step.Far("counting the reads of the comparison, for %s", watched)
	measure.Pause(ctx, watched)
	reads, err := c.Azure.Requests(ctx, world.Filter{Surface: world.SurfaceARM, Method: http.MethodGet, After: lastSeq(before)}, 0)
	return float64(len(reads)) / watched.Seconds(), err
}

func lastSeq(log []world.Request) uint64 {
	if len(log) == 0 {
		return 0
	}
	return log[len(log)-1].Seq
}

func (b *bench) reportFleet(s shape, got fleetResult) {
	limits := s.world().Settings.Limits
	floor := fleetFloor(s.nodes, limits, s.arm)
	counts := map[string]int{}
	for _, r := range got.requests {
		what := r.Method
		if r.Method == http.MethodGet && strings.Contains(r.Path, "/operations/") {
			what = "GET of operations"
		}
		if r.Status == http.StatusTooManyRequests {
			what = "429"
		}
		counts[what]++
	}
	r := b.Report
	r.Add("fleet.assigned", fmt.Sprintf("%d single VMs, %d pods of %d identities at once: all assigned", s.nodes, s.nodes*podsPerVM, s.identities),
		"s", []float64{got.took.Seconds()}).AtMost(1.1*floor.Seconds(), measure.Worst).
		Remark("Azure's limits alone take %.0f s; creating the pods took %.0f s; ARM takes %s; requests: %d GET of VMs, %d of operations, %d PATCH",
			floor.Seconds(), got.creating.Seconds(), s.arm, counts[http.MethodGet], counts["GET of operations"], counts[http.MethodPatch])
	r.Add("fleet.throttled", "… answers 429, of which one is given to one VM on purpose", "", []float64{float64(counts["429"])}).AtMost(5, measure.Worst)
	r.Add("fleet.retry", fmt.Sprintf("… that VM, told to wait %s: its pods assigned", throttledFor), "s", []float64{got.throttled.Seconds()}).
		AtMost(1.1*floor.Seconds(), measure.Worst)
	r.Add("fleet.order", fmt.Sprintf("… a pod is assigned later than one created %s after it, at most", passMargin), "s", []float64{got.passed.Seconds()}).
		AtMost(10, measure.Worst).Remark("%s", got.last)
	budget := float64(limits.Reads.PerMinute) / 60
	r.Add("fleet.drift", "… afterwards, comparing with Azure takes of the read budget", "%", []float64{100 * got.driftReads / budget}).AtMost(5, measure.Worst)
	r.Add("fleet.memory", "… peak of MIC's memory (RSS)", "MiB", []float64{got.peak}).AtMost(200, measure.Worst)
	b.Said = fmt.Sprintf("%.0f s, limits alone %.0f s", got.took.Seconds(), floor.Seconds())
}
