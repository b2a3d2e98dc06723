// Whose node gets the taint, and when: no client, no clock.

package agenttaint

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// record is what is known of the agents of the nodes that have, or had, one.
//
// A node that never had an agent is none of our business: the DaemonSet may not
// go there. Nor is any node when there is no agent at all any more: then podid is
// being uninstalled.
type record struct {
	after time.Duration
	nodes map[string]*node
}

// node is one node that has, or had, an agent.
type node struct {
	agents map[string]bool // by pod: whether it is ready
	// illSince is when the last ready agent was seen; zero while there is one.
	illSince time.Time
}

func newRecord(after time.Duration) *record {
	return &record{after: after, nodes: map[string]*node{}}
}

// set takes the latest state of an agent's pod on a node.
func (r *record) set(nodeName, pod string, ready bool, now time.Time) {
	n := r.nodes[nodeName]
	if n == nil {
		n = &node{agents: map[string]bool{}}
		r.nodes[nodeName] = n
	}
	n.agents[pod] = ready
	n.settle(now)
}

// remove takes that an agent's pod is gone.
func (r *record) remove(nodeName, pod string, now time.Time) {
	if n := r.nodes[nodeName]; n != nil {
		delete(n.agents, pod)
		n.settle(now)
	}
}

// forget takes that a node is gone.
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

// verdict is what to do about one node.
type verdict int

const (
	leave   verdict = iota // its agent is ready, or it is none of ours
	wait                   // ill, and not for long enough
	tooMany                // ill for long enough, together with many others
	taint
)

// most is how many nodes may have the taint for an agent that is ill: a third of
// them, and always one. Beyond, the fault is the agent's and not the nodes', and
// keeping pods away from everywhere would be worse than what it guards against:
// without an agent, pods are refused, and nothing leaks.
func (r *record) most() int { return max(len(r.nodes)/3, 1) }

// judge decides about a node, and says how long until the decision may change by
// itself; 0 when only events change it.
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

// uninstalled tells that no agent is left anywhere.
func (r *record) uninstalled() bool {
	for _, n := range r.nodes {
		if len(n.agents) > 0 {
			return false
		}
	}
	return true
}

// ready tells whether an agent's pod is ready to serve. One that is being deleted
// counts for as long as it is: its successor is on the way.
func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
