// What NMI may change on nodes: the start-up taint of its own node.

package chart

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// nodePolicy requires the chart to be installed as "podid".
func nodePolicy(t *testing.T, api cluster) {
	ours := corev1.Taint{Key: "aadpodidentity.k8s.io/agent-not-ready", Effect: corev1.TaintEffectNoSchedule}
	other := corev1.Taint{Key: "example.com/other", Effect: corev1.TaintEffectNoSchedule}
	for _, name := range []string{"own", "other"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{ours, other}}}
		if err := api.Create(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	nmi := api.agentOn(t, "own")
	all := map[string]attempt{}
	for name, test := range map[string]struct {
		node    string
		change  func(*corev1.Node)
		refused string // part of the message; "" when it is allowed
	}{
		"a taint of others": {"own", func(n *corev1.Node) { remove(n, other.Key) }, "changes no other"},
		"both taints":       {"own", func(n *corev1.Node) { n.Spec.Taints = nil }, "changes no other"},
		"a new taint": {"own", func(n *corev1.Node) {
			remove(n, ours.Key)
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "x", Effect: "NoExecute"})
		}, "changes no other"},
		"a label besides": {"own", func(n *corev1.Node) { remove(n, ours.Key); n.Labels = map[string]string{"a": "b"} }, "nothing of a node but"},
		"an annotation":   {"own", func(n *corev1.Node) { remove(n, ours.Key); n.Annotations = map[string]string{"a": "b"} }, "nothing of a node but"},
		"cordon":          {"own", func(n *corev1.Node) { remove(n, ours.Key); n.Spec.Unschedulable = true }, "nothing of a node but"},
		"an owner": {"own", func(n *corev1.Node) {
			remove(n, ours.Key)
			n.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "other", UID: "1"}}
		}, "nothing of a node but"},
		"a finalizer": {"own", func(n *corev1.Node) { remove(n, ours.Key); n.Finalizers = []string{"example.com/hold"} }, "nothing of a node but"},
		"the provider's ID": {"own", func(n *corev1.Node) {
			remove(n, ours.Key)
			n.Spec.ProviderID = "azure:///subscriptions/of/another/machine"
		}, "nothing of a node but"},
		"the range of pods": {"own", func(n *corev1.Node) {
			remove(n, ours.Key)
			n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.99.0.0/16", []string{"10.99.0.0/16"}
		}, "nothing of a node but"},
		"the taint elsewhere": {"other", func(n *corev1.Node) { remove(n, ours.Key) }, "its own node only"},
	} {
		all[name] = attempt{func() error { return change(t, nmi, test.node, test.change, client.DryRunAll) }, test.refused}
	}
	api.attempts(t, all)
	if err := change(t, nmi, "own", func(n *corev1.Node) { remove(n, ours.Key) }); err != nil {
		t.Errorf("the start-up taint of its own node: %v", err)
	}
	if err := change(t, api.serviceAccount(t, namespace, "podid-nmi"), "other", func(n *corev1.Node) { remove(n, ours.Key) }); err == nil {
		t.Error("a caller without a node may change one")
	}
	if err := nmi.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "own"}}); err == nil {
		t.Error("NMI may delete its node")
	}
}

func change(t *testing.T, api client.Client, name string, how func(*corev1.Node), options ...client.PatchOption) error {
	t.Helper()
	var node corev1.Node
	if err := api.Get(t.Context(), client.ObjectKey{Name: name}, &node); err != nil {
		return err
	}
	before := node.DeepCopy()
	how(&node)
	return api.Patch(t.Context(), &node, client.MergeFrom(before), options...)
}

func remove(n *corev1.Node, key string) {
	var left []corev1.Taint
	for _, taint := range n.Spec.Taints {
		if taint.Key != key {
			left = append(left, taint)
		}
	}
	n.Spec.Taints = left
}

// eventually retries until f succeeds.
func (c cluster) eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}
