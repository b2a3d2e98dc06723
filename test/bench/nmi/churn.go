// Row churn: pods with networks of their own come and go, and nothing of them stays.

package nmi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/load"
	"github.com/podid-io/podid/test/bench/measure"
)

const (
	// runtimeTime is between a pod's network and its program. Container runtimes take longer.
	runtimeTime = 200 * time.Millisecond
	// churnLife is how long a pod asks, twice a second.
	churnLife = time.Second
	// settleTime is how long what a pod has left may take to vanish.
	settleTime = 30 * time.Second
)

// leftovers is what NMI, the holder and the kernel have.
type leftovers struct {
	agentFiles, holderFiles, namespaces int
	goroutines                          float64 // of the agent
}

func (b *bench) churn(ctx context.Context, step *progress.Step) error {
	usual, err := b.holderGoroutines(ctx, nil)
	if err != nil {
		return err
	}
	var before, after leftovers
	var all load.Result
	left, err := b.holderGoroutines(ctx, func(p *pair) (err error) {
		if before, err = p.leftovers(ctx); err != nil {
			return err
		}
		if all, err = b.comeAndGo(ctx, step, p); err != nil {
			return err
		}
		after, err = p.settled(ctx, before)
		return err
	})
	if err != nil {
		return err
	}
	r := b.Report
	r.Add("churn.failed", fmt.Sprintf("%d pods come and go in %s: failed requests", manyPods, b.options.churn), "", []float64{float64(all.Failed)}).
		AtMost(0, measure.Worst).Remark("of %d; max %.0f ms. %s", all.Requests, 1e3*all.Max, all.Text)
	more := func(id, what string, now, then float64) {
		r.Add(id, what, "", []float64{max(now-then, 0)}).AtMost(0, measure.Worst).Remark("%.0f before, %.0f after", then, now)
	}
	more("churn.agent.files", "… descriptors that NMI has kept", float64(after.agentFiles), float64(before.agentFiles))
	more("churn.holder.files", "… descriptors that the holder has kept", float64(after.holderFiles), float64(before.holderFiles))
	more("churn.agent.goroutines", "… goroutines of NMI that have stayed", after.goroutines, before.goroutines)
	more("churn.holder.goroutines", "… goroutines of the holder that have stayed", float64(left), float64(usual))
	more("churn.namespaces", "… network namespaces that have stayed", float64(after.namespaces), float64(before.namespaces))
	b.Said = fmt.Sprintf("%d of %d requests failed", all.Failed, all.Requests)
	return nil
}

// holderGoroutines starts a pair with one pod, calls f, and returns the number of the holder's
// goroutines, without the runtime's. The holder has no port: it prints them when SIGQUIT ends it.
func (b *bench) holderGoroutines(ctx context.Context, f func(*pair) error) (count int, err error) {
	err = b.node.withPair(ctx, func(p *pair) error {
		return p.withPods(ctx, 1, func([]*innerPod) error {
			if f != nil {
				if err := f(p); err != nil {
					return err
				}
			}
			if err := p.holder.Stop(syscall.SIGQUIT); err != nil {
				return err
			}
			text, err := p.holder.Log()
			text = text[max(0, strings.LastIndex(text, "SIGQUIT")):] // the file may have those of earlier runs
			count = strings.Count(text, "\ncreated by ") - strings.Count(text, "\ncreated by runtime.")
			return err
		})
	})
	if err == nil && count == 0 {
		err = errors.New("the holder has not printed its goroutines")
	}
	return count, err
}

func (p *pair) leftovers(ctx context.Context) (l leftovers, err error) {
	var err1, err2, err3 error
	l.agentFiles, err1 = measure.DescriptorsOf(p.agent.PID())
	l.holderFiles, err2 = measure.DescriptorsOf(p.holder.PID())
	l.goroutines, err3 = metric(ctx, "go_goroutines")
	links, err4 := netlink.LinkList()
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, innerLink) {
			l.namespaces++
		}
	}
	return l, errors.Join(err1, err2, err3, err4)
}

// settled waits until there is no more than before, and returns what there is in the end.
func (p *pair) settled(ctx context.Context, before leftovers) (now leftovers, err error) {
	for deadline := time.Now().Add(settleTime); ; {
		now, err = p.leftovers(ctx)
		same := now.agentFiles <= before.agentFiles && now.holderFiles <= before.holderFiles &&
			now.goroutines <= before.goroutines && now.namespaces <= before.namespaces
		if err != nil || same || time.Now().After(deadline) || ctx.Err() != nil {
			return now, errors.Join(err, ctx.Err())
		}
		measure.Pause(ctx, 10*again)
	}
}

// comeAndGo starts the pods at equal distances, and returns the sum of what they got.
func (b *bench) comeAndGo(ctx context.Context, step *progress.Step, p *pair) (sum load.Result, failed error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	began, apart := time.Now(), b.options.churn/manyPods
	for i := range manyPods {
		step.Far("%d of %d pods", i, manyPods)
		all.Go(func() {
			r, err := b.brief(ctx, p, i)
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			if sum.Requests, sum.Failed, sum.Max = sum.Requests+r.Requests, sum.Failed+r.Failed, max(sum.Max, r.Max); r.Failed > 0 {
				sum.Text = r.Text
			}
		})
		measure.Pause(ctx, time.Until(began.Add(time.Duration(i+1)*apart)))
	}
	all.Wait()
	return sum, errors.Join(failed, ctx.Err())
}

// brief is the life of one pod.
func (b *bench) brief(ctx context.Context, p *pair, i int) (r load.Result, err error) {
	n, id := b.node, i%manyIdentities
	object, err := n.stage.Kube.CoreV1().Pods(namespace).Create(ctx, newPod(namespace, fmt.Sprintf("brief-%d", i), nodeName, id), metav1.CreateOptions{})
	if err != nil {
		return r, fmt.Errorf("create pod brief-%d: %w", i, err)
	}
	defer func() { err = errors.Join(err, n.deletePod(ctx, object)) }()
	if err := assign(ctx, n.stage, object, id); err != nil {
		return r, err
	}
	pod, err := p.startPod(object)
	if err != nil {
		return r, err
	}
	measure.Pause(ctx, runtimeTime)
	r, err = pod.order(order{Load: new(inside(load.Spec{Connections: 2, Rate: 2, Length: churnLife, Fresh: i%2 == 0}))})
	return r, errors.Join(err, pod.stop())
}

// deletePod removes a pod and its assigned identities, as the kubelet and MIC do.
func (n *node) deletePod(ctx context.Context, pod *corev1.Pod) error {
	at := int64(0)
	err := n.stage.Kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &at})
	if err == nil {
		err = n.stage.Objects.DeleteAllOf(ctx, &v1.AzureAssignedIdentity{}, client.InNamespace(pod.Namespace), client.MatchingLabels{v1.PodNameLabel: pod.Name})
	}
	if err != nil {
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	return nil
}
