// Package taint takes the start-up taint off the agent's node once the agent is
// ready, and again whenever the taint comes back while it is.
//
// A node that joins with the taint gets no pods before its agent stands between
// them and the metadata service. The taint is never put on here: an agent that is
// ill may not be able to, and MIC sees it better from outside.
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
	// Watch tells of the node, now and at every change, until ctx ends. The
	// object is the receiver's to keep and must not be changed.
	Watch(ctx context.Context, tell func(*corev1.Node))
	// SetTaints writes the taints of a node that has not changed since it was
	// told; else it fails.
	SetTaints(ctx context.Context, node *corev1.Node, taints []corev1.Taint) error
}

// Remover takes the taint off.
type Remover struct {
	nodes Nodes
	ready func() bool
	log   logr.Logger

	look chan struct{}     // something may have changed; holds one
	told chan *corev1.Node // the latest node; holds one
}

// New returns a remover. ready tells, at once and from memory, whether the agent
// does its job.
func New(nodes Nodes, ready func() bool, log logr.Logger) *Remover {
	return &Remover{nodes: nodes, ready: ready, log: log.WithName("taint"), look: make(chan struct{}, 1), told: make(chan *corev1.Node, 1)}
}

// Check makes Run check whether the taint can be removed. Call it when ready may have become true.
func (r *Remover) Check() {
	select {
	case r.look <- struct{}{}:
	default: // it is about to look anyway
	}
}

const (
	// A write that failed is repeated after 1 s, 2 s, ... a minute: the API server
	// may be away, or the right may be missing for good.
	firstRetry = time.Second
	lastRetry  = time.Minute
	// writeTime bounds one write.
	writeTime = 10 * time.Second
)

// Run works until ctx ends. The watch ends soon after; it may be in a pause before
// its next try, which is not waited for.
func (r *Remover) Run(ctx context.Context) {
	go r.nodes.Watch(ctx, r.tell)
	var node *corev1.Node
	failures, said := 0, ""
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case node = <-r.told:
			// What failed on the old state may do on the new one.
			failures = 0
		case <-r.look:
		case <-again:
		}
		again = nil
		if node == nil || !r.ready() {
			continue
		}
		left, found := Without(node.Spec.Taints)
		if !found {
			failures, said = 0, ""
			continue
		}
		if err := r.remove(ctx, node, left); err != nil {
			if ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				r.log.Error(err, "the start-up taint stays, trying again: pods that do not tolerate it are not scheduled here", "node", node.Name)
			}
			again = time.After(min(firstRetry<<min(failures, 10), lastRetry))
			failures++
			continue
		}
		r.log.Info("start-up taint taken off", "node", node.Name)
		node = nil // changed: the watch tells the new one
		failures, said = 0, ""
	}
}

func (r *Remover) remove(ctx context.Context, node *corev1.Node, left []corev1.Taint) error {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	return r.nodes.SetTaints(ctx, node, left)
}

// tell keeps the latest node only.
func (r *Remover) tell(node *corev1.Node) {
	for {
		select {
		case r.told <- node:
			return
		default:
		}
		select {
		case <-r.told:
		default:
		}
	}
}

// Without returns the taints without the start-up taint, whatever its effect,
// and whether it was there.
func Without(taints []corev1.Taint) (left []corev1.Taint, found bool) {
	left = slices.DeleteFunc(slices.Clone(taints), func(t corev1.Taint) bool { return t.Key == v1.AgentNotReadyTaint })
	return left, len(left) < len(taints)
}
