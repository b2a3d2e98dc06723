// The decision which nodes get the taint, and when: pure logic without clients or clocks.

package agenttaint

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// record holds what is known about the node agents.
//
// It covers only nodes that have, or had, an agent. A node that never had one is ignored: the
// DaemonSet may not be scheduled there. If no agent is left anywhere, podid is being uninstalled
// and no node is tainted.
type record struct {
	after time.Duration
	nodes map[string]*node
}

// node is the state of one node that has, or had, an agent.
type node struct {
	agents map[string]bool // by pod: whether it is ready
	// illSince is when the node lost its last ready agent. It is zero while there is one.
	illSince time.Time
}

func newRecord(after time.Duration) *record {
	return &record{after: after, nodes: map[string]*node{}}
}

// set records the latest state of an agent's pod on a node.
func (r *record) set(nodeName, pod string, ready bool, now time.Time) {
	n := r.nodes[nodeName]
	if n == nil {
		n = &node{agents: map[string]bool{}}
		r.nodes[nodeName] = n
	}
	n.agents[pod] = ready
	n.settle(now)
}

// remove forgets an agent's pod that was deleted.
func (r *record) remove(nodeName, pod string, now time.Time) {
	if n := r.nodes[nodeName]; n != nil {
		delete(n.agents, pod)
		n.settle(now)
	}
}

// forget drops a node that was deleted.
func (r *record) forget(nodeName string) { delete(r.nodes, nodeName) }

func (n *node) settle(now time.Time) {
	switch {
	case n.ready():
		n.illSince = time.Time{}
	case n.illSince.IsZero():
		n.illSince = now
	}
}

func (n *node) ready() bool {
	for _, ready := range n.agents {
		if ready {
			return true
		}
	}
	return false
}

// verdict is the decision about one node.
type verdict int

const (
	leave   verdict = iota // its agent is ready, or the node never had one
	wait                   // no ready agent, but not for long enough
	tooMany                // no ready agent for long enough, on too many nodes at once
	taint
)

// most returns how many nodes may be tainted at the same time: a third of them, and at least one.
// Beyond that, the fault lies with the agent and not with the nodes. Keeping pods away from every
// node would then do more harm than the taint prevents: without an agent, pods are refused and
// nothing leaks.
func (r *record) most() int { return max(len(r.nodes)/3, 1) }

// judge decides about a node. It also returns after how long the decision may change by itself, and
// 0 when only events can change it.
func (r *record) judge(nodeName string, now time.Time) (verdict, time.Duration) {
	n := r.nodes[nodeName]
	if n == nil || n.illSince.IsZero() || r.uninstalled() {
		return leave, 0
	}
	if left := n.illSince.Add(r.after).Sub(now); left > 0 {
		return wait, left
	}
	ill := 0
	for _, other := range r.nodes {
		if !other.illSince.IsZero() && now.Sub(other.illSince) >= r.after {
			ill++
		}
	}
	if ill > r.most() {
		return tooMany, r.after
	}
	return taint, 0
}

// uninstalled reports whether no agent is left on any node.
func (r *record) uninstalled() bool {
	for _, n := range r.nodes {
		if len(n.agents) > 0 {
			return false
		}
	}
	return true
}

// ready reports whether an agent's pod is ready to serve. A pod that is being deleted still counts
// until it is gone: its successor is being created.
func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
