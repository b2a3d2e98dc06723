// NMI under load: requests per second and their cost.

package pods

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/internal/privileged"
	"github.com/podid-io/podid/internal/sandbox/netns"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
)

const (
	connections = 32
	turns       = 4
	roundTime   = 4 * time.Second
	loadTime    = 2*(turns*roundTime+time.Second) + podTime
	// barePort is the bare server's port on the node.
	barePort = 18080
	// idleTime is how long NMI's memory is sampled without requests.
	idleTime = 3 * time.Second
)

// round is one output line of the load generator; see test/bench/pod.
type round struct {
	Target   string    `json:"target"`
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"`
	Requests int       `json:"requests"`
	Failed   int       `json:"failed"`
	Text     string    `json:"text"`
	P50      float64   `json:"p50"`
	P99      float64   `json:"p99"`
	CPU      float64   `json:"cpu"`
}

func (r round) seconds() float64 { return r.Ended.Sub(r.Began).Seconds() }
func (r round) rate() float64    { return float64(r.Requests) / r.seconds() }

// nmiIdle measures NMI before the first pod.
func (b *bench) nmiIdle(ctx context.Context, _ *progress.Step) error {
	pid, err := b.process(ctx, "nmi")
	if err != nil {
		return err
	}
	stop := measure.Sample(ctx, pid)
	measure.Pause(ctx, idleTime)
	all := stop()
	r := b.Report
	r.Add("nmi.idle", "NMI's memory, idle (RSS)", "MiB", resident(all)).AtMost(30, measure.Worst)
	r.Add("nmi.idle.anonymous", "NMI's memory, idle, without the program's own file", "MiB", anonymous(all))
	b.Said = fmt.Sprintf("%.1f MiB", measure.Worst(resident(all)))
	return errors.Join(ctx.Err(), b.holder(ctx))
}

// inPods reports whether requests are captured inside pods.
func (b *bench) inPods() bool { return b.options.way != privileged.CaptureWire }

// holder measures the holder, if there is one.
func (b *bench) holder(ctx context.Context) error {
	if !b.inPods() {
		return nil
	}
	pid, err := b.programOf(ctx, "nmi", "nmi-holder")
	if err != nil {
		return err
	}
	stop := measure.Sample(ctx, pid)
	measure.Pause(ctx, idleTime)
	all := stop()
	b.Report.Add("holder", "the holder's memory (RSS)", "MiB", resident(all)).AtMost(12, measure.Worst)
	b.Report.Add("holder.anonymous", "the holder's memory, without the program's own file", "MiB", anonymous(all))
	return ctx.Err()
}

func resident(all []measure.Memory) (out []float64) {
	for _, m := range all {
		out = append(out, m.RSS)
	}
	return out
}

func anonymous(all []measure.Memory) (out []float64) {
	for _, m := range all {
		out = append(out, m.Anonymous)
	}
	return out
}

func (b *bench) load(ctx context.Context, step *progress.Step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loadTime, fmt.Errorf("it took longer than %s", loadTime))
	defer cancel()
	server, err := b.startLoad(ctx)
	if err != nil {
		return err
	}
	bare, err := b.bareProcess(ctx, server)
	if err != nil {
		return err
	}
	nmi, err := b.process(ctx, "nmi")
	if err != nil {
		return err
	}
	step.Far("%d rounds of %s each", 2*turns, roundTime)
	stopNMI, stopBare := measure.Sample(ctx, nmi), measure.Sample(ctx, bare)
	list, err := b.rounds(ctx)
	samples := map[string][]measure.Memory{"nmi": stopNMI(), "bare": stopBare()}
	if err != nil {
		return err
	}
	return b.reportLoad(ctx, list, samples)
}

// startLoad starts the bare server and the load generator. It returns the name of the pod that the
// server is in: requests to it take the same way as those to NMI. On the wire it is a pod on the
// node's network, inside pods a container of the load generator's pod, reached over that pod's lo.
func (b *bench) startLoad(ctx context.Context) (server string, err error) {
	address, server := net.JoinHostPort(nodeAddress(), strconv.Itoa(barePort)), "bare"
	if b.inPods() {
		address, server = net.JoinHostPort("127.0.0.1", strconv.Itoa(barePort)), "load"
	}
	pod := generator(address)
	bare := asker("bare", "nobody", "serve", address, strconv.Itoa(b.answer))
	if b.inPods() {
		always, container := corev1.ContainerRestartPolicyAlways, bare.Spec.Containers[0]
		container.Name, container.RestartPolicy = "bare", &always // beside the load, until that ends
		pod.Spec.InitContainers = []corev1.Container{container}
	} else {
		bare.Spec.HostNetwork = true
		if err := b.createRunning(ctx, bare); err != nil {
			return "", err
		}
	}
	return server, b.createRunning(ctx, pod)
}

// createRunning creates a pod and waits until it runs.
func (b *bench) createRunning(ctx context.Context, pod *corev1.Pod) error {
	if err := b.create(ctx, pod); err != nil {
		return err
	}
	if err := b.seen.wait(ctx, func() bool { return !b.seen.pods[namespace+"/"+pod.Name].running.IsZero() }); err != nil {
		return fmt.Errorf("wait for pod %s: %w", pod.Name, err)
	}
	return nil
}

// generator returns the pod of the load generator.
func generator(bare string) *corev1.Pod {
	pod := asker("load", "cold-0", "load", "bare="+bare, "nmi=169.254.169.254:80")
	env := &pod.Spec.Containers[0].Env
	*env = append(*env,
		corev1.EnvVar{Name: "BENCH_CONNECTIONS", Value: strconv.Itoa(connections)},
		corev1.EnvVar{Name: "BENCH_SECONDS", Value: strconv.Itoa(int(roundTime.Seconds()))},
		corev1.EnvVar{Name: "BENCH_ROUNDS", Value: strconv.Itoa(turns)})
	return pod
}

// rounds waits for the end of the load generator and returns its results.
func (b *bench) rounds(ctx context.Context) ([]round, error) {
	if b.options.Profile != "" {
		if err := b.profileNMI(ctx); err != nil {
			return nil, err
		}
	}
	p, err := b.seen.pod(ctx, namespace+"/load")
	if err != nil {
		return nil, err
	}
	text, err := b.client.CoreV1().Pods(namespace).GetLogs("load", &corev1.PodLogOptions{Container: "app"}).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what the load generator said: %w", err)
	}
	if p.phase != corev1.PodSucceeded {
		return nil, fmt.Errorf("the load generator gave up: %.500s", text)
	}
	return parseRounds(text)
}

func parseRounds(text []byte) ([]round, error) {
	var list []round
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		var r round
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("the load generator said %.200q: %w", lines.Text(), err)
		}
		if r.Failed > 0 {
			return nil, fmt.Errorf("%d of %d requests to %s failed: %.300s", r.Failed, r.Requests, r.Target, r.Text)
		}
		list = append(list, r)
	}
	return list, lines.Err()
}

// target holds the measurements of one of the two servers, a value for each round.
type target struct {
	rate, p50, p99, generator, cost, kernel []float64
	memory                                  []measure.Memory
}

func (b *bench) reportLoad(ctx context.Context, list []round, samples map[string][]measure.Memory) error {
	targets := map[string]*target{"nmi": {}, "bare": {}}
	for _, r := range list {
		if t := targets[r.Target]; t != nil {
			t.take(r, samples[r.Target])
		}
	}
	nmi, bare := targets["nmi"], targets["bare"]
	for _, t := range targets {
		if len(t.rate) != turns || len(t.memory) == 0 {
			return errors.New("the load generator did not measure all rounds")
		}
	}
	r := b.Report
	r.Add("load.nmi", fmt.Sprintf("tokens from the cache, %d connections", connections), "/s", nmi.rate).AtLeast(25000, measure.Middle)
	r.Add("load.bare", "a bare net/http server with the same answer, same load", "/s", bare.rate)
	r.Add("load.ratio", "NMI's part of the bare server's rate", "", []float64{measure.Middle(nmi.rate) / measure.Middle(bare.rate)}).AtLeast(b.leastPart(), measure.Middle)
	r.Add("load.p50", "time to a token under that load, p50 of each round", "s", nmi.p50)
	r.Add("load.p99", "time to a token under that load, measure.P99 of each round", "s", nmi.p99)
	r.Add("load.cost", "CPU time of NMI for a token", "s", nmi.cost).Remark("%.0f µs of it in the kernel", 1e6*measure.Middle(nmi.kernel))
	r.Add("load.bare.cost", "CPU time of the bare server for an answer", "s", bare.cost).Remark("%.0f µs of it in the kernel", 1e6*measure.Middle(bare.kernel))
	r.Add("load.generator", "CPU time of the load generator for a request", "s", nmi.generator)
	r.Add("nmi.load", "NMI's memory under that load (RSS)", "MiB", resident(nmi.memory)).AtMost(60, measure.Worst)
	r.Add("nmi.load.anonymous", "NMI's memory under that load, without the program's own file", "MiB", anonymous(nmi.memory))
	r.Add("bare.load", "the bare server's memory, to compare", "MiB", resident(bare.memory))
	b.Said = fmt.Sprintf("%.0f/s, a bare server %.0f/s", measure.Middle(nmi.rate), measure.Middle(bare.rate))
	return b.reportIMDS(ctx)
}

// leastPart returns the target for NMI's part of the bare server's rate. On the wire, requests to
// NMI pass address translation, and those to the bare server do not.
func (b *bench) leastPart() float64 {
	if b.inPods() {
		return 0.75
	}
	return 0.5
}

// take adds a round. CPU time comes from the samples, which may miss a tenth of a second at both
// ends of the round.
func (t *target) take(r round, samples []measure.Memory) {
	t.rate, t.p50, t.p99 = append(t.rate, r.rate()), append(t.p50, r.P50/1e6), append(t.p99, r.P99/1e6)
	t.generator = append(t.generator, r.CPU/float64(r.Requests))
	var within []measure.Memory
	for _, m := range samples {
		if m.At.After(r.Began) && m.At.Before(r.Ended) {
			within = append(within, m)
		}
	}
	if len(within) < 2 {
		return
	}
	t.memory = append(t.memory, within...)
	from, to := within[0], within[len(within)-1]
	requests := r.rate() * to.At.Sub(from.At).Seconds()
	t.cost = append(t.cost, (to.Used.All-from.Used.All)/requests)
	t.kernel = append(t.kernel, (to.Used.Kernel-from.Used.Kernel)/requests)
}

// reportIMDS counts the requests to the metadata service itself.
func (b *bench) reportIMDS(ctx context.Context) error {
	log, err := b.azureLog(ctx, "imds", "GET", "/metadata/identity/*")
	if err != nil {
		return err
	}
	calls := map[string]float64{}
	for _, r := range log {
		calls[r.Details["clientID"]+" "+r.Details["resource"]]++
	}
	var each []float64
	for _, n := range calls {
		each = append(each, n)
	}
	b.Report.Add("imds.calls", "IMDS calls for each identity and resource, whole run so far", "", each).AtMost(1, measure.Worst).
		Remark("%d calls for %d identities", len(log), len(calls))
	return nil
}

// bareProcess returns the bare server, which is in the pod with that name.
func (b *bench) bareProcess(ctx context.Context, name string) (int, error) {
	pod, err := b.client.CoreV1().Pods(namespace).Get(ctx, name, getOptions())
	if err != nil {
		return 0, fmt.Errorf("find the bare server: %w", err)
	}
	return processOf(string(pod.UID), "bench", "serve")
}

// nodeAddress returns the first node's address for pods.
func nodeAddress() string {
	plan, err := network.NewPlan("any", 1)
	if err != nil {
		return ""
	}
	return plan.Nodes[0].IP.Addr().String()
}

// profileNMI stores a CPU profile of the time under load and a heap profile of its end.
func (b *bench) profileNMI(ctx context.Context) error {
	node := netns.Namespace(network.Prefix(b.options.name) + "node-0")
	client := &http.Client{Transport: &http.Transport{DialContext: node.Dial}}
	for name, path := range map[string]string{"nmi.cpu": "profile?seconds=12", "nmi.heap": "heap"} {
		if err := measure.Profile(ctx, client, measure.Pprof+path, filepath.Join(b.options.Profile, name)); err != nil {
			return fmt.Errorf("profile NMI: %w", err)
		}
	}
	return nil
}
