// Package taint removes the start-up taint from the agent's node once the agent is ready, and
// whenever the taint is added again while it is.
//
// A node that joins with the taint gets no pods before the agent redirects their requests. The
// agent never adds the taint: a failing agent may not be able to, and MIC detects that from
// outside.
package taint

import (
	"context"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

// Nodes reads and writes the agent's node.
type Nodes interface {
	// Watch calls notify with the node, now and after every change, until ctx ends. The object may
	// be kept and must not be changed.
	Watch(ctx context.Context, notify func(*corev1.Node))
	// SetTaints writes the taints of a node. It fails if the node has changed since Watch returned
	// it.
	SetTaints(ctx context.Context, node *corev1.Node, taints []corev1.Taint) error
}

// Remover removes the taint.
type Remover struct {
	api   Nodes
	ready func() bool
	log   logr.Logger

	check chan struct{}     // ready may have changed; buffers one
	nodes chan *corev1.Node // the latest node; buffers one
}

// New returns a remover. ready reports whether the agent is ready, and must not block.
func New(api Nodes, ready func() bool, log logr.Logger) *Remover {
	return &Remover{api: api, ready: ready, log: log.WithName("taint"), check: make(chan struct{}, 1), nodes: make(chan *corev1.Node, 1)}
}

// Check makes Run check whether the taint can be removed. Call it when ready may have become true.
func (r *Remover) Check() {
	select {
	case r.check <- struct{}{}:
	default: // a check is due anyway
	}
}

const (
	// A failed write is retried after minBackoff, doubling to maxBackoff.
	minBackoff = time.Second
	maxBackoff = time.Minute
	// writeTime bounds one write.
	writeTime = 10 * time.Second
)

// Run removes the taint whenever the agent is ready, until ctx ends. It does not wait for the
// watch, which may be in a pause before its next attempt.
func (r *Remover) Run(ctx context.Context) {
	go r.api.Watch(ctx, r.setNode)
	var node *corev1.Node
	failures, logged := 0, ""
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case node = <-r.nodes: // on which a write may succeed
			failures = 0
		case <-r.check:
		case <-retry:
		}
		retry = nil
		if !r.ready() {
			continue
		}
		removed, err := r.remove(ctx, node)
		if err != nil {
			if ctx.Err() == nil && err.Error() != logged {
				logged = err.Error()
				r.log.Error(err, "cannot remove the start-up taint, retrying: pods that do not tolerate it are not scheduled on this node", "node", node.Name)
			}
			retry = time.After(min(minBackoff<<min(failures, 10), maxBackoff))
			failures++
			continue
		}
		failures, logged = 0, ""
		if removed {
			r.log.Info("removed the start-up taint", "node", node.Name)
			node = nil // changed: the watch returns the new one
		}
	}
}

// remove removes the taint from a node, which is nil if it is not known. It reports whether there
// was one.
func (r *Remover) remove(ctx context.Context, node *corev1.Node) (removed bool, err error) {
	if node == nil {
		return false, nil
	}
	left, found := Without(node.Spec.Taints)
	if !found {
		return false, nil
	}
	write, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	return true, r.api.SetTaints(write, node, left)
}

// setNode passes the latest node to Run.
func (r *Remover) setNode(node *corev1.Node) {
	for {
		select {
		case r.nodes <- node:
			return
		default:
		}
		select {
		case <-r.nodes:
		default:
		}
	}
}

// Without returns the taints without the start-up taint, whatever its effect. found reports whether
// it was there.
func Without(taints []corev1.Taint) (left []corev1.Taint, found bool) {
	left = slices.DeleteFunc(slices.Clone(taints), func(t corev1.Taint) bool { return t.Key == v1.AgentNotReadyTaint })
	return left, len(left) < len(taints)
}
