// MIC with many pods. They exist only at the API server, bound to nodes that also exist only there,
// which makes no difference to MIC. The size is that of AAD Pod Identity's own load test: 100
// namespaces with 20 pods each.

package pods

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podid-io/podid/internal/sandbox"
	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
)

const (
	scaleSets    = 4
	nodesEach    = 5
	scaleTime    = 5 * time.Minute
	calmTime     = 5 * time.Second
	scaleSetBase = "bench-"
)

func (b *bench) scale(ctx context.Context, step *progress.Step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, scaleTime, fmt.Errorf("it took longer than %s", scaleTime))
	defer cancel()
	if err := b.fakeNodes(ctx); err != nil {
		return err
	}
	if err := b.seen.wait(ctx, func() bool { return len(b.seen.accounts) > namespaces }); err != nil {
		return fmt.Errorf("wait for the service accounts: %w", err)
	}
	mic, err := b.process(ctx, "mic")
	if err != nil {
		return err
	}
	usedBefore, err := measure.CPUOf(mic)
	if err != nil {
		return err
	}
	began := time.Now()
	step.Far("creating %d pods", b.options.pods)
	numbers := make([]int, b.options.pods)
	for i := range numbers {
		numbers[i] = i
	}
	if err := each(ctx, numbers, func(ctx context.Context, i int) error { return b.create(ctx, fakePod(i)) }); err != nil {
		return err
	}
	created := time.Since(began)
	err = b.seen.wait(ctx, func() bool {
		n := b.seen.assignedPods()
		step.Far("%d of %d pods have their identity", n, b.options.pods)
		return n >= b.options.pods
	})
	if err != nil {
		return fmt.Errorf("wait until every pod has its identity: %w", err)
	}
	assigned := time.Since(began)
	usedAfter, err := measure.CPUOf(mic)
	if err != nil {
		return err
	}
	updates, err := b.azureLog(ctx, "arm", "PATCH", "*/"+scaleSetBase+"*")
	if err != nil {
		return err
	}
	r := b.Report
	r.Add("scale.assigned", fmt.Sprintf("%d new pods: first created → all have their identity", b.options.pods), "s", []float64{assigned.Seconds()}).
		Remark("the predecessor's load test allows 40 minutes; creating the pods took %.0f s of it", created.Seconds())
	r.Add("scale.behind", fmt.Sprintf("%d new pods: last created → all have their identity", b.options.pods), "s", []float64{(assigned - created).Seconds()})
	r.Add("scale.updates", fmt.Sprintf("%d new pods: updates of %d scale sets", b.options.pods, scaleSets), "", []float64{float64(len(updates))})
	r.Add("scale.cpu", fmt.Sprintf("%d new pods: CPU time of MIC", b.options.pods), "s", []float64{usedAfter - usedBefore})
	return b.micIdle(ctx, step, mic)
}

// micIdle waits until MIC has processed the events of the writes, and then measures it.
func (b *bench) micIdle(ctx context.Context, step *progress.Step, mic int) error {
	step.Far("letting things calm down")
	measure.Pause(ctx, calmTime)
	before, err := measure.CPUOf(mic)
	if err != nil {
		return err
	}
	began := time.Now()
	stop := measure.Sample(ctx, mic)
	step.Far("watching MIC do nothing, for %s", b.options.idle)
	measure.Pause(ctx, b.options.idle)
	took := time.Since(began).Seconds()
	all := stop()
	after, err := measure.CPUOf(mic)
	if err != nil {
		return err
	}
	if b.options.Profile != "" {
		step.Far("the sandbox waits a moment for profiles of MIC, pid %d", mic)
	}
	r := b.Report
	r.Add("mic.idle", fmt.Sprintf("MIC idle with %d pods", b.options.pods), "% of a CPU", []float64{100 * (after - before) / took}).AtMost(1, measure.Worst).
		Remark("over %.0f s", took)
	r.Add("mic.memory", fmt.Sprintf("MIC's memory with %d pods (RSS)", b.options.pods), "MiB", resident(all))
	if nmi, err := b.process(ctx, "nmi"); err == nil {
		if m, err := measure.MemoryOf(nmi); err == nil {
			r.Add("nmi.later", "NMI's memory at the end of the run, idle again (RSS)", "MiB", []float64{m.RSS})
		}
	}
	b.Said = fmt.Sprintf("%d pods, idle %.2f %%", b.options.pods, 100*(after-before)/took)
	return ctx.Err()
}

// assignedPods returns the number of pods of the namespaces that have their identity. The caller
// must hold the lock.
func (s *seen) assignedPods() int {
	n := 0
	for key, state := range s.assigned {
		if state == "Assigned" && strings.HasPrefix(key, "bench-") {
			n++
		}
	}
	return n
}

func nodeName(set, instance int) string { return fmt.Sprintf("bench-%d-%d", set, instance) }

// fakeNodes creates scale sets in the emulated Azure and their nodes in the cluster.
func (b *bench) fakeNodes(ctx context.Context) error {
	for set := range scaleSets {
		name := scaleSetBase + strconv.Itoa(set)
		var instances []object
		for i := range nodesEach {
			instances = append(instances, object{
				"id": strconv.Itoa(i), "name": nodeName(set, i), "addresses": []string{fmt.Sprintf("10.201.%d.%d", set, 10+i)},
			})
		}
		if err := b.controlAzure(ctx, "PUT", "/v1/scaleSets", object{"resourceGroup": sandbox.ResourceGroup, "name": name, "instances": instances}); err != nil {
			return err
		}
		for i := range nodesEach {
			provider := strings.TrimSuffix(sandbox.ScaleSetID(), sandbox.ScaleSet) + name + "/virtualMachines/" + strconv.Itoa(i)
			// No operating system label, so that none of the cluster's own DaemonSets schedules pods there.
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(set, i)}, Spec: corev1.NodeSpec{ProviderID: "azure://" + provider, Unschedulable: true}}
			if _, err := b.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("create node %s: %w", node.Name, err)
			}
		}
	}
	return nil
}

// fakePod returns the i-th pod, which is bound to a node from the start.
func fakePod(i int) *corev1.Pod {
	n := i % namespaces
	pod := asker("pod-"+strconv.Itoa(i/namespaces), "scale-"+strconv.Itoa(n))
	pod.Namespace = scaleNamespace(n)
	pod.Spec.NodeName = nodeName(i%scaleSets, i/scaleSets%nodesEach)
	// The nodes never send heartbeats. The toleration prevents the eviction of their pods.
	pod.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	return pod
}

func getOptions() metav1.GetOptions { return metav1.GetOptions{} }
