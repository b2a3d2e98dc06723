// Row idle: NMI without requests, in a cluster with many objects that it has to know.

package nmi

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/podid-io/podid/internal/sandbox/progress"
	"github.com/podid-io/podid/test/bench/measure"
	"github.com/podid-io/podid/test/bench/stage"
)

const (
	idleNamespaces = 50
	// podsPerNode is how many of the cluster's pods are on NMI's node.
	podsPerNode = 80
	idleTime    = 20 * time.Second
	calmDown    = 3 * time.Second
)

func (b *bench) idle(ctx context.Context, step *progress.Step) (err error) {
	s, err := stage.New(b.options.logs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Remove()) }()
	if err := s.StartKubernetes(ctx); err != nil {
		return err
	}
	kubeconfig, err := s.ServiceAccount(ctx, "podid", "nmi")
	if err != nil {
		return err
	}
	if err := b.fillBig(ctx, s, step); err != nil {
		return err
	}
	n := &node{stage: s, options: b.options, kubeconfig: kubeconfig}
	return n.withNMI(ctx, func(p *nmiProgram) error {
		ready := time.Since(p.Began)
		measure.Pause(ctx, calmDown)
		before, err := p.CPU()
		if err != nil {
			return err
		}
		step.Far("watching NMI do nothing, for %s", idleTime)
		sampled := measure.Sample(ctx, p.PID())
		measure.Pause(ctx, idleTime)
		memory := sampled()
		after, err := p.CPU()
		if err != nil || len(memory) == 0 {
			return errors.Join(err, ctx.Err())
		}
		var rss []float64
		for _, m := range memory {
			rss = append(rss, m.RSS)
		}
		last := memory[len(memory)-1]
		b.Report.Add("idle.memory", fmt.Sprintf("idle, in a cluster of %d pods and %d identities: NMI's memory (RSS)", b.options.pods, b.options.objects), "MiB", rss).
			AtMost(40, measure.Worst).
			Remark("peak %.1f MiB, while it learned the cluster; at the end %.1f MiB without the program's own file; ready after %.2f s",
				last.Peak, last.Anonymous, ready.Seconds())
		b.Report.Add("idle.cpu", "… part of a CPU", "%", []float64{100 * (after - before) / idleTime.Seconds()})
		b.Said = fmt.Sprintf("%.1f MiB, peak %.1f MiB", measure.Worst(rss), last.Peak)
		if b.options.Profile == "" {
			return nil
		}
		return b.download(ctx, "heap?gc=1", "idle.heap")
	})
}

func bigNamespace(i int) string { return "bench-" + strconv.Itoa(i%idleNamespaces) }

// fillBig writes a big cluster: identities and bindings in several namespaces, and pods on many
// nodes, each with an assigned identity.
func (b *bench) fillBig(ctx context.Context, s *stage.Stage, step *progress.Step) error {
	err := stage.Each(ctx, idleNamespaces, func(ctx context.Context, i int) error { return s.Namespace(ctx, bigNamespace(i)) })
	if err != nil {
		return err
	}
	err = stage.Each(ctx, b.options.objects, func(ctx context.Context, i int) error {
		if i%100 == 0 {
			step.Far("%d of %d identities written", i, b.options.objects)
		}
		return grant(ctx, s, bigNamespace(i), i)
	})
	if err != nil {
		return err
	}
	n := &node{stage: s}
	return stage.Each(ctx, b.options.pods, func(ctx context.Context, i int) error {
		if i%100 == 0 {
			step.Far("%d of %d pods written", i, b.options.pods)
		}
		id := i % b.options.objects
		p := newPod(bigNamespace(id), podName(i), "node-"+strconv.Itoa(i/podsPerNode), id)
		if err := n.createPod(ctx, p); err != nil {
			return err
		}
		return assign(ctx, s, p, id)
	})
}
