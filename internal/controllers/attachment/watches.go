// What wakes the attachment controller.

package attachment

import (
	"context"
	"maps"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/identity"
)

// workers is how many groups may have an update in flight. ARM grants a subscription ten writes a
// second in the long run, and a VM takes 10 to 20 s, so more than some 150 would only wait.
const workers = 150

// The pauses after an error of the API server. The libraries' default goes up to 16 minutes, which
// is much longer than such failures last. It begins with 5 ms: because each pass reads Azure again,
// that would use up what Azure allows while the API server is down.
const (
	retryFirst = 250 * time.Millisecond
	retryMax   = 15 * time.Second
)

// preassignDelay is how long changes of pre-assignments are collected.
const preassignDelay = 500 * time.Millisecond

// Compare makes the controller read a group from Azure and reconcile it. Calls beyond what Azure
// allows are ignored: comparisons must not use up the reads that updates need.
func (r *Reconciler) Compare(group compute.Group) {
	st, now := r.groups.of(group), r.now()
	if with(st, func() bool { return st.azure.compareAgain(now) }) {
		r.groups.wake.Add(group)
	}
}

// Ledgered returns the groups to which podid attached something.
func (r *Reconciler) Ledgered(ctx context.Context) ([]compute.Group, error) {
	_, groups, err := r.ledger.All(ctx)
	return groups, err
}

// Register adds the controller to a manager. Pods wake it through Groups.Place.
func (r *Reconciler) Register(mgr manager.Manager) error {
	log := mgr.GetLogger().WithValues("controller", "attachment")
	return builder.TypedControllerManagedBy[compute.Group](mgr).
		Named("attachment").
		WithLogConstructor(func(group *compute.Group) logr.Logger {
			if group == nil {
				return log
			}
			return log.WithValues("nodeGroup", group.String())
		}).
		Watches(&corev1.Node{}, onNode()).
		Watches(&v1.AzureIdentity{}, r.onIdentity()).
		WatchesRawSource(source.TypedFunc[compute.Group](r.groups.wake.Source)).
		WithOptions(controller.TypedOptions[compute.Group]{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[compute.Group](retryFirst, retryMax),
			NewQueue:                wakeup.NewWorkQueue[compute.Group],
		}).
		Complete(r)
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
func (r *Reconciler) onIdentity() handler.TypedEventHandler[client.Object, compute.Group] {
	retry := func(o client.Object) {
		id, ok := o.(*v1.AzureIdentity)
		if !ok || id.Spec.Type != v1.UserAssignedMSI {
			return
		}
		if parsed, err := identity.ParseResourceID(id.Spec.ResourceID); err == nil {
			r.groups.retry(parsed.Key())
		}
	}
	preassign := func(ctx context.Context, o client.Object, q groupQueue, deleted bool) {
		id, ok := o.(*v1.AzureIdentity)
		if !ok {
			return
		}
		if r.preassign(id, deleted) {
			r.wakePopulated(ctx, q)
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
func (r *Reconciler) wakePopulated(ctx context.Context, q groupQueue) {
	var nodes corev1.NodeList
	if r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy) != nil {
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
