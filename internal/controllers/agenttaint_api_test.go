package controllers_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/agenttaint"
)

// agentIll: a node whose agent is not ready, or missing, for a while gets the taint and keeps its
// others.
func agentIll(t *testing.T, w *world) {
	agents := labels.Set{"component": "nmi"}
	w.config.AgentTaint = agenttaint.Settings{After: 200 * time.Millisecond, Agents: agents.AsSelector()}
	ill := w.nodes[0]
	var pods []*corev1.Pod
	for i, node := range w.nodes {
		pod := w.newPod(fmt.Sprintf("nmi-%d", i), "", node)
		pod.Labels = agents
		w.create(pod)
		w.agentReady(pod, corev1.ConditionTrue)
		pods = append(pods, pod)
	}
	w.start()

	w.agentReady(pods[0], corev1.ConditionFalse)
	w.waitTaints(ill, v1.AgentNotReadyTaint)

	// The agent removes it. MIC leaves a node with a ready agent alone.
	w.agentReady(pods[0], corev1.ConditionTrue)
	var node corev1.Node
	w.must(w.client.Get(t.Context(), client.ObjectKey{Name: ill}, &node))
	before := node.DeepCopy()
	node.Spec.Taints = []corev1.Taint{{Key: "example.com/mine", Effect: corev1.TaintEffectNoSchedule}}
	w.must(w.client.Patch(t.Context(), &node, client.MergeFrom(before)))

	w.delete(pods[0])
	w.waitTaints(ill, "example.com/mine", v1.AgentNotReadyTaint)
	w.waitTaints(w.nodes[1])
}

// agentReady sets the Ready condition of an agent's pod.
func (w *world) agentReady(pod *corev1.Pod, status corev1.ConditionStatus) {
	w.t.Helper()
	before := pod.DeepCopy()
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()}}
	w.must(w.client.Status().Patch(w.t.Context(), pod, client.MergeFrom(before)))
}

// waitTaints waits until a node has exactly these taints besides Kubernetes' own.
func (w *world) waitTaints(name string, want ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("taints %v of node %s", want, name), func() string {
		var node corev1.Node
		w.must(w.client.Get(w.t.Context(), client.ObjectKey{Name: name}, &node))
		var have []string
		for _, taint := range node.Spec.Taints {
			if taint.Key != corev1.TaintNodeNotReady {
				have = append(have, taint.Key)
			}
		}
		if !slices.Equal(have, want) {
			return fmt.Sprintf("has %v", have)
		}
		return ""
	})
}
