// Package nodestate writes to the agent's node what others decide by. It removes the start-up taint
// once the agent is ready, and whenever the taint is added again while it is. It annotates how
// pods' requests reach the agent.
//
// A node that joins with the taint gets no pods before the agent redirects their requests. The
// agent never adds the taint: a failing agent may not be able to, and MIC detects that from
// outside.
package nodestate

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
	// Write writes the taints of a node, unless they are nil, and v1.CaptureAnnotation, unless it is
	// empty. It fails if the node has changed since Watch returned it.
	Write(ctx context.Context, node *corev1.Node, taints []corev1.Taint, capture string) error
}

// Agent is the state of the agent. Its functions must not block.
type Agent struct {
	// Ready reports whether the agent is ready.
	Ready func() bool
	// Capture returns the value of v1.CaptureAnnotation, or nothing while it is not this agent's to
	// say.
	Capture func() string
}

// Writer writes the state.
type Writer struct {
	api   Nodes
	agent Agent
	log   logr.Logger
	// capture is the last value that was written or found. While it is there, the value of another
	// agent is left alone: should two not know of each other, what counts is what changed last.
	capture string

	check chan struct{}     // the agent's state may have changed; buffers one
	nodes chan *corev1.Node // the latest node; buffers one
}

// New returns a writer.
func New(api Nodes, agent Agent, log logr.Logger) *Writer {
	return &Writer{api: api, agent: agent, log: log.WithName("node"), check: make(chan struct{}, 1), nodes: make(chan *corev1.Node, 1)}
}

// Check makes Run check what is to be written. Call it when the state of the agent may have
// changed.
func (w *Writer) Check() {
	select {
	case w.check <- struct{}{}:
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

// Run writes until ctx ends. It does not wait for the watch, which may be in a pause before its
// next attempt.
func (w *Writer) Run(ctx context.Context) {
	go w.api.Watch(ctx, w.setNode)
	var node *corev1.Node
	failures, logged := 0, ""
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case node = <-w.nodes: // on which a write may succeed
			failures = 0
		case <-w.check:
		case <-retry:
		}
		retry = nil
		taints, capture := w.due(node)
		if taints == nil && capture == "" {
			failures, logged = 0, ""
			continue
		}
		if err := w.write(ctx, node, taints, capture); err != nil {
			if ctx.Err() == nil && err.Error() != logged {
				logged = err.Error()
				w.log.Error(err, "cannot write to this node, retrying: pods that do not tolerate its start-up taint are not scheduled there, if it has one", "node", node.Name)
			}
			retry = time.After(min(minBackoff<<min(failures, 10), maxBackoff))
			failures++
			continue
		}
		failures, logged = 0, ""
		node = nil // changed: the watch returns the new one
	}
}

// due returns what is to be written to a node, which is nil if it is not known. The taint is
// written alone: where the rest may not be changed, that must not fail.
func (w *Writer) due(node *corev1.Node) (taints []corev1.Taint, capture string) {
	if node == nil {
		return nil, ""
	}
	if left, found := Without(node.Spec.Taints); found && w.agent.Ready() {
		return left, ""
	}
	value := w.agent.Capture()
	there, found := node.Annotations[v1.CaptureAnnotation]
	switch {
	case value == "" || value == there:
		w.capture = value
	case value != w.capture || !found:
		capture = value
	}
	return nil, capture
}

func (w *Writer) write(ctx context.Context, node *corev1.Node, taints []corev1.Taint, capture string) error {
	write, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	if err := w.api.Write(write, node, taints, capture); err != nil {
		return err
	}
	if taints != nil {
		w.log.Info("removed the start-up taint", "node", node.Name)
	}
	if capture != "" {
		w.capture = capture
	}
	return nil
}

// setNode passes the latest node to Run.
func (w *Writer) setNode(node *corev1.Node) {
	for {
		select {
		case w.nodes <- node:
			return
		default:
		}
		select {
		case <-w.nodes:
		default:
		}
	}
}

// Without returns the taints without the start-up taint, whatever its effect. found reports whether
// it was there. left is never nil.
func Without(taints []corev1.Taint) (left []corev1.Taint, found bool) {
	left = slices.DeleteFunc(append([]corev1.Taint{}, taints...), func(t corev1.Taint) bool { return t.Key == v1.AgentNotReadyTaint })
	return left, len(left) < len(taints)
}
