// Row moment: a pod whose identity is on the node requests a token as soon as it runs.

package nmi

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/load"
	"github.com/podid-io/podid/test/bench/measure"
	"github.com/podid-io/podid/test/bench/stage"
)

const (
	// momentEvery is longer than the metadata service's limit requires, so that the row does not
	// measure the limit.
	momentEvery = 100 * time.Millisecond
	// ahead is how many pods are scheduled and wait for their container to start, which takes each of
	// them a second.
	ahead = 10
)

func (b *bench) moment(ctx context.Context, step *progress.Step) error {
	n, most := b.node, b.options.moments
	err := stage.Each(ctx, most, func(ctx context.Context, i int) error { return grant(ctx, n.stage, namespace, manyIdentities+i) })
	if err != nil {
		return err
	}
	defer func() { _ = n.forgetMoments(ctx) }() // they would use some of the metadata service's limit in the next rows
	return n.withNMI(ctx, func(*nmiProgram) error {
		var took, reported []float64
		tick := time.NewTicker(momentEvery)
		defer tick.Stop()
		for i := range most + ahead {
			if i < most {
				if err := n.schedule(ctx, i); err != nil {
					return err
				}
			}
			if i >= ahead {
				step.Far("%d of %d pods", i-ahead, most)
				asked, report, err := n.startAndAsk(ctx, i-ahead)
				if err != nil {
					return err
				}
				took, reported = append(took, asked), append(reported, report)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		b.Report.Add("moment", "pod already entitled asks when its kubelet begins to report that it runs: request → token", "s", took).
			AtMost(50e-3, measure.P99).Was("5.0 s").
			Remark("each pod has an identity of its own; the API server needs %.1f ms (p50) of it, %.1f ms at most, to answer the kubelet",
				1e3*measure.Middle(reported), 1e3*measure.Worst(reported))
		b.Said = fmt.Sprintf("p50 %.1f ms, p99 %.1f ms", 1e3*measure.Middle(took), 1e3*measure.P99(took))
		return nil
	})
}

// forgetMoments removes the row's pods.
func (n *node) forgetMoments(ctx context.Context) error {
	now := int64(0)
	return n.stage.Kube.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now},
		metav1.ListOptions{LabelSelector: "row=moment"})
}

func momentName(i int) string { return fmt.Sprintf("moment-%d", i) }

// schedule writes a pod that has a node and an identity there, but no address yet.
func (n *node) schedule(ctx context.Context, i int) error {
	p := newPod(namespace, momentName(i), nodeName, manyIdentities+i)
	p.Labels["row"] = "moment"
	if err := n.createPod(ctx, p); err != nil {
		return err
	}
	return assign(ctx, n.stage, p, manyIdentities+i)
}

// startAndAsk sends a pod's token request while its kubelet reports that the pod runs. It returns
// the durations of the request and the report.
func (n *node) startAndAsk(ctx context.Context, i int) (asked, reported float64, err error) {
	address := podAddress(manyPods + i)
	done := make(chan error, 1)
	go func() {
		began := time.Now()
		err := n.runs(ctx, newPod(namespace, momentName(i), nodeName, manyIdentities+i), address.String())
		reported = time.Since(began).Seconds()
		done <- err
	}()
	r, err := n.send(toNMI(load.Spec{Connections: 1, Sources: []netip.Addr{address}, Requests: 1, Length: requestTime}))
	if failed := <-done; err == nil {
		err = failed
	}
	return r.Max, reported, err
}
