// What wakes the attachment controller.

package attachment

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
)

// preassignDelay is how long changes of pre-assignments are collected.
const preassignDelay = 500 * time.Millisecond

// Compare makes the controller read a group from Azure and reconcile it. Calls beyond what Azure
// allows are ignored: comparisons must not use up the reads that updates need. While updates wait
// for Azure's limits, a group that was read before is left to the next comparison.
func (c *Controller) Compare(group compute.Group) {
	st, now := c.groups.of(group), c.groups.now()
	if st.known() && c.cloud.Pause(group, st.waitingSince()) > 0 {
		return
	}
	if with(st, func() bool { return st.azure.compareAgain(now) }) {
		c.groups.wake.Add(group)
	}
}

// Ledgered returns the groups to which podid attached something.
func (c *Controller) Ledgered(ctx context.Context) ([]compute.Group, error) {
	_, groups, err := c.ledger.Store.All(ctx)
	return groups, err
}

type groupQueue = workqueue.TypedRateLimitingInterface[compute.Group]

// onNode wakes the groups of nodes that are created or deleted, or get a provider ID.
func onNode() handler.TypedEventHandler[client.Object, compute.Group] {
	add := func(o client.Object, q groupQueue) {
		node, ok := o.(*corev1.Node)
		if !ok {
			return
		}
		if group, err := compute.ParseProviderID(node.Spec.ProviderID); err == nil {
			q.Add(group)
		}
	}
	return handler.TypedFuncs[client.Object, compute.Group]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[client.Object], q groupQueue) { add(e.Object, q) },
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[client.Object], q groupQueue) { add(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[client.Object], q groupQueue) {
			before, okA := e.ObjectOld.(*corev1.Node)
			after, okB := e.ObjectNew.(*corev1.Node)
			if okA && okB && before.Spec.ProviderID != after.Spec.ProviderID {
				add(before, q)
				add(after, q)
			}
		},
	}
}

// onIdentity retries an identity in quarantine when its object is changed, or deleted and
// recreated: that is how a user reports that the cause is fixed. It also follows the
// pre-assignments.
func (c *Controller) onIdentity() handler.TypedEventHandler[client.Object, compute.Group] {
	retry := func(o client.Object) {
		id, ok := o.(*v1.AzureIdentity)
		if !ok || id.Spec.Type != v1.UserAssignedMSI {
			return
		}
		if parsed, err := identity.ParseResourceID(id.Spec.ResourceID); err == nil {
			c.groups.retry(parsed.Key())
		}
	}
	preassign := func(ctx context.Context, o client.Object, q groupQueue, deleted bool) {
		id, ok := o.(*v1.AzureIdentity)
		if !ok {
			return
		}
		if c.preassign(id, deleted) {
			c.wakePopulated(ctx, q)
		}
	}
	return handler.TypedFuncs[client.Object, compute.Group]{
		CreateFunc: func(ctx context.Context, e event.TypedCreateEvent[client.Object], q groupQueue) {
			if !e.IsInInitialList {
				retry(e.Object)
			}
			preassign(ctx, e.Object, q, false)
		},
		DeleteFunc: func(ctx context.Context, e event.TypedDeleteEvent[client.Object], q groupQueue) {
			retry(e.Object)
			preassign(ctx, e.Object, q, true)
		},
		UpdateFunc: func(ctx context.Context, e event.TypedUpdateEvent[client.Object], q groupQueue) {
			if edited(e.ObjectOld, e.ObjectNew) {
				retry(e.ObjectNew)
				preassign(ctx, e.ObjectNew, q, false)
			}
		},
	}
}

// edited reports whether a user changed the object; podid itself writes its status.
func edited(before, after client.Object) bool {
	return before.GetGeneration() != after.GetGeneration() || before.GetUID() != after.GetUID() ||
		(before.GetDeletionTimestamp() == nil) != (after.GetDeletionTimestamp() == nil) ||
		!maps.Equal(before.GetAnnotations(), after.GetAnnotations()) || !maps.Equal(before.GetLabels(), after.GetLabels())
}

// wakePopulated wakes every group that has nodes, after a delay: an annotation that is changed in a
// loop must not wake all of them each time.
func (c *Controller) wakePopulated(ctx context.Context, q groupQueue) {
	var nodes corev1.NodeList
	if c.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy) != nil {
		return // only while the program stops
	}
	groups := map[compute.Group]bool{}
	for i := range nodes.Items {
		if group, err := compute.ParseProviderID(nodes.Items[i].Spec.ProviderID); err == nil && !groups[group] {
			groups[group] = true
			q.AddAfter(group, preassignDelay)
		}
	}
}
