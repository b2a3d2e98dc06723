// Rows start, idle and huge: MIC starts in a cluster that has many pods already.

package mic

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
	"github.com/podid-io/podid/test/bench/stage"
)

// perRequest is how many identities Azure accepts in one update.
const perRequest = 150

// armTime returns how long Azure is busy with a scale set that gets all identities.
func (s shape) armTime() time.Duration {
	return time.Duration(math.Ceil(float64(s.identities)/perRequest)) * s.arm
}

// started is the result of a start of MIC from nothing.
type started struct {
	mic *program
	// took is from the start, and leading from the leadership, until all were assigned.
	took, leading time.Duration
	peak          float64
	written       writes
	updates       []update
	cpu           map[string]float64 // seconds, by program
}

// startMIC starts MIC for that many pods and waits until it is idle.
func (b *bench) startMIC(ctx context.Context, c *cluster, pods int, step *progress.Step) (started, error) {
	c.seen.clear()
	if _, err := c.audit.take(); err != nil {
		return started{}, err
	}
	measure.Pause(ctx, calmDown) // the API server is still processing the last writes
	before := cpuByName()
	mic, err := c.mic(b, "mic", 0)
	if err != nil {
		return started{}, err
	}
	profiled := b.profile(ctx, c.Config(), fmt.Sprintf("start-%d", pods), mic, profileTime+time.Duration(pods)*2*time.Millisecond)
	s := started{mic: mic}
	if err := c.seen.all(ctx, pods, func(n int) { step.Far("%d of %d are assigned", n, pods) }); err != nil {
		return s, fmt.Errorf("%w; MIC's last words: %s", err, mic.Tail())
	}
	last := c.seen.last()
	s.took = last.Sub(mic.Began)
	s.cpu = cpuByName()
	for name := range s.cpu {
		s.cpu[name] -= before[name]
	}
	lease, err := c.Kube.CoordinationV1().Leases("default").Get(ctx, leaseName, metav1.GetOptions{})
	if err != nil {
		return s, fmt.Errorf("read the lease: %w", err)
	}
	if at := lease.Spec.AcquireTime; at != nil {
		s.leading = last.Sub(at.Time)
	}
	step.Far("waiting until MIC is at rest")
	if s.written, err = c.audit.rest(ctx); err != nil {
		return s, err
	}
	m, err := mic.Memory()
	if err != nil {
		return s, err
	}
	s.peak = m.Peak
	if s.updates, err = c.updates(ctx); err != nil {
		return s, err
	}
	return s, profiled()
}

// cpuByName returns the CPU time of the programs, including the benchmark, in seconds.
func cpuByName() map[string]float64 {
	all := stage.CPUByName()
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) == nil {
		all["benchmark"] = float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	return all
}

func (s started) shares() string {
	var parts []string
	for _, name := range []string{"mic", "kube-apiserver", "etcd", "podid", "benchmark"} {
		parts = append(parts, fmt.Sprintf("%s %.1f s", strings.Replace(name, "podid", "Azure", 1), s.cpu[name]))
	}
	return "CPU time meanwhile: " + strings.Join(parts, ", ")
}

func (b *bench) start(ctx context.Context, step *progress.Step) error {
	s := shape{nodes: 100, sets: 5, identities: 50, arm: usualARM}
	pods := b.options.pods
	return b.with(ctx, s, func(c *cluster) error {
		if err := c.createPods(ctx, s, 0, pods, func(n int) { step.Far("%d of %d pods created", n, pods) }); err != nil {
			return err
		}
		got, err := b.startMIC(ctx, c, pods, step)
		if err != nil {
			return err
		}
		if b.options.wants("start") {
			b.reportStart(s, got, pods)
		}
		b.Said = fmt.Sprintf("%.1f s, %d writes, %.0f MiB", got.took.Seconds(), got.written.total(), got.peak)
		if !b.options.wants("idle") {
			return nil
		}
		return b.idle(ctx, c, s, got.mic, step)
	})
}

func (b *bench) reportStart(s shape, got started, pods int) {
	r := b.Report
	what := fmt.Sprintf("%d pods, %d nodes, %d scale sets, %d identities", pods, s.nodes, s.sets, s.identities)
	r.Add("start.assigned", what+": MIC starts → all assigned", "s", []float64{got.took.Seconds()}).
		AtMost((2*time.Second+s.armTime()).Seconds(), measure.Worst).Was("821 s; with its limits raised 17.3 s").
		Remark("from leadership %.2f s; %s; updates: %s", got.leading.Seconds(), got.shares(), sizes(got.updates))
	r.Add("start.writes", "… writes to the API server, all of them", "", []float64{float64(got.written.total())}).
		AtMost(float64(pods+200), measure.Worst).Was("5,571; with its limits raised 4,498").Remark("%s", got.written)
	r.Add("start.memory", "… peak of MIC's memory (RSS)", "MiB", []float64{got.peak}).AtMost(80, measure.Worst).Was("114 MiB")
}

// Idle is the load of a cluster in which no pods start or end: kubelets report on their pods and
// nodes.
const (
	podReports = 500 * time.Millisecond
	nodeReport = 3 * time.Second // 100 nodes, each every five minutes
	calmDown   = 5 * time.Second
)

func (b *bench) idle(ctx context.Context, c *cluster, s shape, mic *program, step *progress.Step) error {
	step.Far("letting things calm down")
	measure.Pause(ctx, calmDown)
	if _, err := c.audit.take(); err != nil {
		return err
	}
	before, err := mic.CPU()
	if err != nil {
		return err
	}
	began := time.Now()
	step.Far("watching MIC do nothing, for %s", b.options.idle)
	profiled := b.profile(ctx, c.Config(), "idle", mic, b.options.idle)
	reports, err := c.kubelets(ctx, s, b.options)
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	after, err := mic.CPU()
	if err != nil {
		return err
	}
	written, err := c.audit.take()
	if err != nil {
		return err
	}
	part := 100 * (after - before) / took
	b.Report.Add("idle", fmt.Sprintf("MIC idle with %d pods", b.options.pods), "% of a CPU", []float64{part}).
		AtMost(0.7, measure.Worst).Was("124 %").
		Remark("over %.0f s, in which kubelets reported %d times; MIC wrote: %s", took, reports, written)
	b.Said += fmt.Sprintf("; idle %.2f %%", part)
	return profiled()
}

// kubelets sends status reports for one pod or node after another, as kubelets do, and returns the
// number of reports.
func (c *cluster) kubelets(ctx context.Context, s shape, o options) (reports int, err error) {
	pods, nodes := time.NewTicker(podReports), time.NewTicker(nodeReport)
	defer pods.Stop()
	defer nodes.Stop()
	end := time.NewTimer(o.idle)
	defer end.Stop()
	for n := 0; ; n++ {
		now := time.Now().UTC().Format(time.RFC3339)
		status := `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastTransitionTime":"` + now + `"}]}}`
		select {
		case <-pods.C:
			p := s.pod(n % o.pods)
			_, err = c.Kube.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, []byte(status), metav1.PatchOptions{}, "status")
		case <-nodes.C:
			status = `{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"` + now + `"}]}}`
			_, err = c.Kube.CoreV1().Nodes().Patch(ctx, nodeName(n%s.nodes), types.StrategicMergePatchType, []byte(status), metav1.PatchOptions{}, "status")
		case <-end.C:
			return n, nil
		case <-ctx.Done():
			return n, context.Cause(ctx)
		}
		if err != nil {
			return n, fmt.Errorf("report as a kubelet: %w", err)
		}
	}
}

// hugeRow measures a growing cluster. At each size MIC starts from nothing, and then single pods
// are created and deleted.
func (b *bench) hugeRow(ctx context.Context, step *progress.Step) error {
	sizes := b.options.sizes
	if len(sizes) == 0 {
		sizes = []int{2000, 5000, 10000, 20000}
	}
	s := grown(sizes)
	return b.with(ctx, s, func(c *cluster) error {
		pods := 0
		for _, size := range sizes {
			err := c.createPods(ctx, s, pods, size, func(n int) { step.Far("%d of %d pods created", n, size) })
			if err != nil {
				return err
			}
			pods = size
			if err := b.hugeSize(ctx, c, s, size, step); err != nil {
				return fmt.Errorf("with %d pods: %w", size, err)
			}
		}
		return nil
	})
}

// grown returns the shape for the largest of these numbers of pods.
func grown(sizes []int) shape {
	largest := sizes[len(sizes)-1]
	return shape{nodes: max(largest/20, 1), sets: max(largest/1000, 1), identities: max(largest/40, 1), arm: usualARM}
}

func (b *bench) hugeSize(ctx context.Context, c *cluster, s shape, size int, step *progress.Step) error {
	got, err := b.startMIC(ctx, c, size, step)
	if err != nil {
		return err
	}
	r := b.Report
	f := r.Add(fmt.Sprintf("huge.%d.assigned", size), fmt.Sprintf("%d pods, %d nodes, %d scale sets, %d identities: MIC starts → all assigned", size, s.nodes, s.sets, s.identities),
		"s", []float64{got.took.Seconds()})
	m := r.Add(fmt.Sprintf("huge.%d.memory", size), "… peak of MIC's memory (RSS)", "MiB", []float64{got.peak})
	if size == 20000 {
		f.AtMost((25*time.Second + s.armTime()).Seconds(), measure.Worst)
		m.AtMost(300, measure.Worst)
	}
	f.Remark("from leadership %.2f s; every scale set gets every identity, ARM needs %s for that; %d writes: %s; %s",
		got.leading.Seconds(), s.armTime(), got.written.total(), got.written, got.shares())
	if err := b.events(ctx, c, s, size, got.mic, step); err != nil {
		return err
	}
	b.Said = fmt.Sprintf("%d pods in %.1f s, %.0f MiB", size, got.took.Seconds(), got.peak)
	if err := got.mic.Stop(quit()); err != nil {
		return err
	}
	step.Far("removing what MIC wrote")
	if err := c.forget(ctx); err != nil {
		return err
	}
	return c.seen.gone(ctx)
}

// events creates and deletes single pods, and reports the cost of one of them to MIC.
func (b *bench) events(ctx context.Context, c *cluster, s shape, size int, mic *program, step *progress.Step) error {
	measure.Pause(ctx, calmDown)
	before, err := mic.CPU()
	if err != nil {
		return err
	}
	profiled := b.profile(ctx, c.Config(), fmt.Sprintf("events-%d", size), mic, profileTime)
	began := time.Now()
	var took []float64
	for i := range b.options.events {
		step.Far("%d pods: %d of %d single pods", size, i, b.options.events)
		p := s.pod(i % size) // its identity is on the scale set already
		p.Name = fmt.Sprintf("single-%d", i)
		at, err := c.comeAndGo(ctx, p)
		if err != nil {
			return err
		}
		took = append(took, at.Seconds())
	}
	after, err := mic.CPU()
	if err != nil {
		return err
	}
	cost := (after - before) / float64(2*b.options.events)
	b.Report.Add(fmt.Sprintf("huge.%d.event", size), fmt.Sprintf("%d pods: MIC's CPU time for one more pod event (created, deleted)", size), "s", []float64{cost}).
		Remark("%d single pods came and went within %.1f s", b.options.events, time.Since(began).Seconds())
	b.Report.Add(fmt.Sprintf("huge.%d.single", size), fmt.Sprintf("%d pods: one more pod created → assigned", size), "s", took)
	return profiled()
}

// comeAndGo creates a pod, waits until it has its identity, deletes it, and waits until the
// identity is removed.
func (c *cluster) comeAndGo(ctx context.Context, p *corev1.Pod) (time.Duration, error) {
	began := time.Now()
	if err := c.create(ctx, p); err != nil {
		return 0, err
	}
	at, err := c.seen.pod(ctx, key(p))
	if err != nil {
		return 0, err
	}
	c.seen.mu.Lock()
	there := len(c.seen.objects)
	c.seen.mu.Unlock()
	if err := c.delete(ctx, p); err != nil {
		return 0, err
	}
	if err := c.seen.wait(ctx, func() bool { return len(c.seen.objects) < there }); err != nil {
		return 0, fmt.Errorf("wait until the identity of pod %s is gone: %w", p.Name, err)
	}
	return at.Sub(began), nil
}
