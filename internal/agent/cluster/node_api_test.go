package cluster

import (
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/testenv"
)

// nodeChanges: each change of the node is received, those of other nodes are not, and what is
// written is written only if the node has not changed since.
func nodeChanges(t *testing.T, config *rest.Config, api client.Client) {
	t.Helper()
	taint := corev1.Taint{Key: "example.com/not-yet", Effect: corev1.TaintEffectNoSchedule}
	for _, name := range []string{"node-1", "node-2"} {
		testenv.Create(t, api, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"a": "b", v1.HostRoutingLabel: "true"}}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{taint}}})
	}
	n, err := NewNode(config, "node-1", logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	nodes := make(chan *corev1.Node, 100)
	go n.Watch(t.Context(), func(node *corev1.Node) { nodes <- node })

	first := <-nodes
	if first.Name != "node-1" || len(first.Labels) != 1 || first.Labels[v1.HostRoutingLabel] != "true" || len(first.Spec.Taints) == 0 {
		t.Errorf("received %s with labels %v and taints %v", first.Name, first.Labels, first.Spec.Taints)
	}
	if err := n.Write(t.Context(), first, []corev1.Taint{}, v1.CapturePod); err != nil {
		t.Fatal(err)
	}
	if second := <-nodes; len(second.Spec.Taints) != 0 || second.Annotations[v1.CaptureAnnotation] != v1.CapturePod {
		t.Errorf("taints %v and annotations %v after the change", second.Spec.Taints, second.Annotations)
	}
	if err := n.Write(t.Context(), first, []corev1.Taint{}, ""); !apierrors.IsConflict(err) {
		t.Errorf("writing to a changed node: %v, want a conflict", err)
	}
	var now corev1.Node
	if err := api.Get(t.Context(), client.ObjectKey{Name: "node-1"}, &now); err != nil || now.Labels["a"] != "b" {
		t.Errorf("labels %v, %v; want them untouched", now.Labels, err)
	}
}
