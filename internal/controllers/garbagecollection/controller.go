// Package garbagecollection finds assigned identities whose pod or node is gone, and hands them to
// the assignedidentity controller, which removes them.
//
// Normally watches trigger the removal at once: when a node or scale set is deleted, a pod is
// deleted by force, or a namespace is deleted as a whole. The sweep covers missed events, and
// counts objects for metrics. Its interval is v1.8.17's syncRetryDuration.
package garbagecollection

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/lookup"
)

// countInterval is how often assigned identities and nodes are counted. Counting reads only the
// cache.
const countInterval = 15 * time.Second

// Metrics is what the sweep measures. It is implemented by observe.Metrics.
type Metrics interface {
	AssignedIdentities(state string, n int)
	Nodes(kind string, n int)
}

// otherNodes is the kind of nodes outside Azure, which are left alone.
const otherNodes = "other"

// Queue receives the pods of assigned identities that are left behind.
type Queue interface {
	// Add queues pods, which need not exist.
	Add(pods ...types.NamespacedName)
}

// Controller finds what is left behind, at intervals.
type Controller struct {
	cache    client.Reader
	pods     Queue
	metrics  Metrics
	interval time.Duration
}

// NewController returns a Controller. interval is the time between two sweeps.
func NewController(cache client.Reader, pods Queue, metrics Metrics, interval time.Duration) *Controller {
	return &Controller{cache: cache, pods: pods, metrics: metrics, interval: interval}
}

// Start counts and sweeps until the context ends. It counts immediately, so that alerts have data
// from the start.
func (c *Controller) Start(ctx context.Context) error {
	sweep, count := time.NewTicker(c.interval), time.NewTicker(countInterval)
	defer sweep.Stop()
	defer count.Stop()
	c.count(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-count.C:
			c.count(ctx)
		case <-sweep.C:
			c.sweep(ctx)
		}
	}
}

// Register adds the controller to a manager, where it runs only on the leader.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	return mgr.Add(manager.RunnableFunc(c.Start))
}

// count measures the nodes by kind and the assigned identities by state. It lists the assigned
// identities node by node, because a list of all would be large in a big cluster. Objects whose
// node is gone are about to be removed and are not counted.
func (c *Controller) count(ctx context.Context) {
	var nodes corev1.NodeList
	if c.cache.List(ctx, &nodes, client.UnsafeDisableDeepCopy) != nil {
		return // fails only during shutdown
	}
	kinds := map[string]int{string(compute.VM): 0, string(compute.VMSS): 0, otherNodes: 0}
	states := map[string]int{v1.StateCreated: 0, v1.StateAssigned: 0}
	for i := range nodes.Items {
		kinds[kindOf(&nodes.Items[i])]++
		if c.countAssigned(ctx, nodes.Items[i].Name, states) != nil {
			return
		}
	}
	for kind, n := range kinds {
		c.metrics.Nodes(kind, n)
	}
	for state, n := range states {
		c.metrics.AssignedIdentities(state, n)
	}
}

// kindOf returns the kind of a node.
func kindOf(node *corev1.Node) string {
	group, err := compute.ParseProviderID(node.Spec.ProviderID)
	if err != nil {
		return otherNodes
	}
	return string(group.Kind)
}

// countAssigned adds the assigned identities of a node to the counts by state.
func (c *Controller) countAssigned(ctx context.Context, node string, states map[string]int) error {
	var list v1.AzureAssignedIdentityList
	if err := c.cache.List(ctx, &list, client.MatchingFields{lookup.AssignedByNode: node}, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list assigned identities of node %s: %w", node, err)
	}
	for i := range list.Items {
		if list.Items[i].Status.Status == v1.StateAssigned {
			states[v1.StateAssigned]++
		} else {
			states[v1.StateCreated]++
		}
	}
	return nil
}

// sweep hands over the assigned identities that are left behind.
func (c *Controller) sweep(ctx context.Context) {
	log := logr.FromContextOrDiscard(ctx).WithName("garbagecollection")
	var list v1.AzureAssignedIdentityList
	if err := c.cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		log.Error(err, "assigned identities not listed, no sweep this time")
		return
	}
	for i := range list.Items {
		if why := c.leftBehind(ctx, &list.Items[i]); why != "" {
			log.Info("assigned identity left behind, removing it", "assignedIdentity",
				list.Items[i].Namespace+"/"+list.Items[i].Name, "why", why)
			c.pods.Add(types.NamespacedName{Namespace: list.Items[i].Spec.PodNamespace, Name: list.Items[i].Spec.Pod})
		}
	}
}

// leftBehind returns why an assigned identity is no longer needed, or "" if it is needed.
func (c *Controller) leftBehind(ctx context.Context, assigned *v1.AzureAssignedIdentity) string {
	var pod corev1.Pod
	err := c.cache.Get(ctx, types.NamespacedName{Namespace: assigned.Spec.PodNamespace, Name: assigned.Spec.Pod}, &pod)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return ""
	case err != nil:
		return "the pod is gone"
	case pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return "the pod is finished"
	case pod.Spec.NodeName != assigned.Spec.NodeName:
		return "the pod is on another node" // recreated under the same name, as by a StatefulSet
	case !assigned.DeletionTimestamp.IsZero():
		return "it is deleted, and held by its finalizer"
	}
	var node corev1.Node
	err = c.cache.Get(ctx, types.NamespacedName{Name: assigned.Spec.NodeName}, &node)
	if err != nil && client.IgnoreNotFound(err) == nil {
		return "the node is gone"
	}
	return ""
}
