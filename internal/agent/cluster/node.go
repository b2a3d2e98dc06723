// The agent's node: its start-up taint, its labels about the kubelet's identity and the network,
// and its annotation about the capture.

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
	sinks  []NodeSink
	client *rest.RESTClient
	log    logr.Logger

	mu     sync.Mutex
	logged time.Time
}

// NodeSink gets the node before the function that Watch calls. The object must not be changed.
type NodeSink interface {
	SetNode(node *corev1.Node)
}

// NewNode returns the node of that name. It sends no request.
func NewNode(config *rest.Config, name string, log logr.Logger, sinks ...NodeSink) (*Node, error) {
	client, err := restClient(config, corev1.SchemeGroupVersion, "/api", "application/vnd.kubernetes.protobuf", addNodes)
	if err != nil {
		return nil, err
	}
	return &Node{name: name, sinks: sinks, client: client, log: log.WithName("cluster")}, nil
}

func addNodes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Node{}, &corev1.NodeList{})
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	return nil
}

// Watch calls notify with the node, now and after every change, until ctx ends. The object has only
// name, version, taints, the labels about the kubelet's identity and the network, and the
// annotation about the capture.
func (n *Node) Watch(ctx context.Context, notify func(*corev1.Node)) {
	selector := fields.OneTermEqualSelector("metadata.name", n.name).String()
	list := cache.NewFilteredListWatchFromClient(n.client, "nodes", metav1.NamespaceAll, func(o *metav1.ListOptions) { o.FieldSelector = selector })
	informer := cache.NewSharedIndexInformer(listwatch.New(list, n.logError), &corev1.Node{}, 0, cache.Indexers{})
	set := func(object any) {
		if node, ok := object.(*corev1.Node); ok {
			for _, sink := range n.sinks {
				sink.SetNode(node)
			}
			notify(node)
		}
	}
	_, handlerErr := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: set, UpdateFunc: func(_, object any) { set(object) }})
	err := errors.Join(handlerErr,
		informer.SetTransform(stripNode),
		informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { n.logError(err) }),
	)
	if err != nil {
		n.log.Error(err, "cannot watch the node") // impossible for an informer that has not started
		return
	}
	informer.RunWithContext(ctx)
}

// stripNode drops what is not read. Most of a node is its status.
func stripNode(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	stripped := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion},
		Spec:       corev1.NodeSpec{Taints: node.Spec.Taints},
	}
	for _, name := range []string{v1.KubeletIdentityLabel, v1.HostRoutingLabel} { // all that is read
		if value, ok := node.Labels[name]; ok {
			metav1.SetMetaDataLabel(&stripped.ObjectMeta, name, value)
		}
	}
	if value, ok := node.Annotations[v1.CaptureAnnotation]; ok {
		metav1.SetMetaDataAnnotation(&stripped.ObjectMeta, v1.CaptureAnnotation, value)
	}
	return stripped, nil
}

// logError logs an error, at most once in logInterval.
func (n *Node) logError(err error) {
	if err == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.logged) < logInterval {
		return
	}
	n.logged = time.Now()
	remedy := "none needed, retrying"
	if apierrors.IsForbidden(err) {
		remedy = "allow get, list and watch of nodes, and patch unless --startup-taint=false"
	}
	n.log.Info("cannot read this node from the API server: its start-up taint stays, and its labels about the kubelet's identity and the network are unknown",
		"node", n.name, "remedy", remedy, "reason", err.Error())
}

// Write writes the node's taints, unless they are nil, and v1.CaptureAnnotation, unless it is
// empty. It fails if the node has changed since Watch returned it.
func (n *Node) Write(ctx context.Context, node *corev1.Node, taints []corev1.Taint, capture string) error {
	metadata := map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion}
	patch := map[string]any{"metadata": metadata}
	if taints != nil {
		patch["spec"] = map[string]any{"taints": taints}
	}
	if capture != "" {
		metadata["annotations"] = map[string]string{v1.CaptureAnnotation: capture}
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("write to node %s: %w", node.Name, err)
	}
	err = n.client.Patch(types.MergePatchType).Resource("nodes").Name(node.Name).Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("write to node %s: %w", node.Name, err)
	}
	return nil
}
