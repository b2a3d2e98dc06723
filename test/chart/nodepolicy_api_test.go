// What NMI may change on nodes: the start-up taint of its own node, and one
// annotation.

package chart

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/testenv"
)

// nodePolicy requires the chart to be installed as "podid".
func nodePolicy(t *testing.T, api cluster) {
	ours := corev1.Taint{Key: "aadpodidentity.k8s.io/agent-not-ready", Effect: corev1.TaintEffectNoSchedule}
	other := corev1.Taint{Key: "example.com/other", Effect: corev1.TaintEffectNoSchedule}
	testenv.Create(t, api, node("own", ours, other), node("other", ours, other))
	nmi := api.agentOn(t, "own")
	if err := change(t, api.Client, node("own"), func(n *corev1.Node) { n.Annotations = map[string]string{"example.com/a": "b"} }); err != nil {
		t.Fatal(err)
	}
	on := func(name string, how func(*corev1.Node)) func() error {
		return func() error { return change(t, nmi, node(name), how, client.DryRunAll) }
	}
	api.attempts(t, map[string]attempt{
		"a taint of others": {on("own", func(n *corev1.Node) { remove(n, other.Key) }), "changes no other"},
		"both taints":       {on("own", func(n *corev1.Node) { n.Spec.Taints = nil }), "changes no other"},
		"a new taint": {on("own", func(n *corev1.Node) {
			remove(n, ours.Key)
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "x", Effect: "NoExecute"})
		}), "changes no other"},
		"a label besides":          {on("own", func(n *corev1.Node) { remove(n, ours.Key); n.Labels = map[string]string{"a": "b"} }), "nothing of a node but"},
		"an annotation":            {on("own", func(n *corev1.Node) { remove(n, ours.Key); n.Annotations["a"] = "b" }), "nothing of a node but"},
		"an annotation less":       {on("own", func(n *corev1.Node) { n.Annotations = nil }), "nothing of a node but"},
		"another one changed":      {on("own", func(n *corev1.Node) { n.Annotations["example.com/a"] = "c" }), "nothing of a node but"},
		"a long annotation":        {on("own", func(n *corev1.Node) { capture(n, strings.Repeat("a", 1000)) }), "is one of"},
		"the annotation elsewhere": {on("other", func(n *corev1.Node) { capture(n, v1.CapturePod) }), "its own node only"},
		"cordon":                   {on("own", func(n *corev1.Node) { remove(n, ours.Key); n.Spec.Unschedulable = true }), "nothing of a node but"},
		"an owner": {on("own", func(n *corev1.Node) {
			remove(n, ours.Key)
			n.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "other", UID: "1"}}
		}), "nothing of a node but"},
		"a finalizer": {on("own", func(n *corev1.Node) { remove(n, ours.Key); n.Finalizers = []string{"example.com/hold"} }), "nothing of a node but"},
		"the provider's ID": {on("own", func(n *corev1.Node) {
			remove(n, ours.Key)
			n.Spec.ProviderID = "azure:///subscriptions/of/another/machine"
		}), "nothing of a node but"},
		"the range of pods": {on("own", func(n *corev1.Node) {
			remove(n, ours.Key)
			n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.99.0.0/16", []string{"10.99.0.0/16"}
		}), "nothing of a node but"},
		"the taint elsewhere": {on("other", func(n *corev1.Node) { remove(n, ours.Key) }), "its own node only"},
	})
	if err := change(t, nmi, node("own"), func(n *corev1.Node) { remove(n, ours.Key) }); err != nil {
		t.Errorf("the start-up taint of its own node: %v", err)
	}
	for _, value := range []string{v1.CapturePod, v1.CaptureWire, v1.CaptureNone} {
		if err := change(t, nmi, node("own"), func(n *corev1.Node) { capture(n, value) }); err != nil {
			t.Errorf("the annotation %s of its own node: %v", value, err)
		}
	}
	if err := change(t, api.serviceAccount(t, namespace, "podid-nmi"), node("other"), func(n *corev1.Node) { remove(n, ours.Key) }); err == nil {
		t.Error("a caller without a node may change one")
	}
	if err := nmi.Delete(t.Context(), node("own")); err == nil {
		t.Error("NMI may delete its node")
	}
}

func capture(n *corev1.Node, value string) {
	metav1.SetMetaDataAnnotation(&n.ObjectMeta, v1.CaptureAnnotation, value)
}

func node(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints}}
}

// change reads an object, and writes what is changed.
func change[T client.Object](t *testing.T, who client.Client, object T, how func(T), options ...client.PatchOption) error {
	t.Helper()
	if err := who.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		return err
	}
	before := object.DeepCopyObject().(client.Object)
	how(object)
	return who.Patch(t.Context(), object, client.MergeFrom(before), options...)
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
