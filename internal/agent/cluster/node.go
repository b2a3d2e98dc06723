// The agent's own node, for its start-up taint.

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/listwatch"
)

// Node reads and writes one node.
type Node struct {
	name   string
	client *rest.RESTClient
	log    logr.Logger

	mu   sync.Mutex
	said time.Time
}

// NewNode prepares access to the node of that name. It sends nothing yet.
func NewNode(config *rest.Config, name string, log logr.Logger) (*Node, error) {
	client, err := restClient(config, corev1.SchemeGroupVersion, "/api", "application/vnd.kubernetes.protobuf", addNodes)
	if err != nil {
		return nil, err
	}
	return &Node{name: name, client: client, log: log.WithName("cluster")}, nil
}

func addNodes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Node{}, &corev1.NodeList{})
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	return nil
}

// Watch tells of the node, now and at every change, until ctx ends. Of the
// object, only name, version and taints are there.
func (n *Node) Watch(ctx context.Context, tell func(*corev1.Node)) {
	selector := fields.OneTermEqualSelector("metadata.name", n.name).String()
	list := cache.NewFilteredListWatchFromClient(n.client, "nodes", metav1.NamespaceAll, func(o *metav1.ListOptions) { o.FieldSelector = selector })
	informer := cache.NewSharedIndexInformer(listwatch.New(list, n.note), &corev1.Node{}, 0, cache.Indexers{})
	take := func(object any) {
		if node, ok := object.(*corev1.Node); ok {
			tell(node)
		}
	}
	_, err1 := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: take, UpdateFunc: func(_, object any) { take(object) }})
	err := errors.Join(err1,
		informer.SetTransform(stripNode),
		informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { n.note(err) }),
	)
	if err != nil {
		n.log.Error(err, "cannot watch the node") // an informer that has not begun takes all of these
		return
	}
	informer.RunWithContext(ctx)
}

// stripNode keeps what the taint's remover reads; a node's status is its bulk.
func stripNode(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	stripped := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion},
		Spec:       corev1.NodeSpec{Taints: node.Spec.Taints},
	}
	if kubelet, ok := node.Labels[v1.KubeletIdentityLabel]; ok {
		stripped.Labels = map[string]string{v1.KubeletIdentityLabel: kubelet}
	}
	return stripped, nil
}

func (n *Node) note(err error) {
	if err == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.said) < sayAgain {
		return
	}
	n.said = time.Now()
	reason := "trying again"
	if apierrors.IsForbidden(err) {
		reason = "allow get, list and watch of nodes, and patch unless --startup-taint=false"
	}
	n.log.Info("cannot read this node from the API server: a start-up taint on it stays, and the kubelet's identity is not known by the node's label", "node", n.name, "what", reason, "reason", err.Error())
}

// SetTaints writes the node's taints, provided that the node is still the one
// that was told.
func (n *Node) SetTaints(ctx context.Context, node *corev1.Node, taints []corev1.Taint) error {
	if taints == nil {
		taints = []corev1.Taint{}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"taints": taints},
	})
	if err != nil {
		return fmt.Errorf("write taints of node %s: %w", node.Name, err)
	}
	err = n.client.Patch(types.MergePatchType).Resource("nodes").Name(node.Name).Body(patch).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("write taints of node %s: %w", node.Name, err)
	}
	return nil
}
