// What makes the attachment controller look at a node group.

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
	"github.com/podid-io/podid/internal/controllers/kick"
	"github.com/podid-io/podid/internal/identity"
)

// workers is how many groups may have an update in flight. ARM grants a
// subscription ten writes a second in the long run, and a VM takes 10 to 20 s:
// some 150 are as many as Azure can be busy with.
const workers = 150

// The pauses after an error of the API server's. The libraries' own default goes
// up to 16 minutes, which would outlast the trouble by far; it begins with 5 ms,
// and each pass asks Azure again: while the API server is away, that would use up
// what Azure allows, for nothing.
const (
	retryFirst = 250 * time.Millisecond
	retryMost  = 15 * time.Second
)

// preassignDelay is how long changes of pre-assignments are gathered.
const preassignDelay = 500 * time.Millisecond

// Kick makes the controller look at a group, and ask Azure before anything else. Where
// it comes too often for what Azure allows, most kicks are ignored: comparing must not
// use up the reads that updates need.
func (r *Reconciler) Kick(group compute.Group) {
	if r.groups.of(group).compareAgain(r.now()) {
		r.groups.wake.Add(group)
	}
}

// Ledgered returns the groups that have a ledger.
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
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[compute.Group](retryFirst, retryMost),
			NewQueue:                kick.NewWorkQueue[compute.Group],
		}).
		Complete(r)
}

type groupQueue = workqueue.TypedRateLimitingInterface[compute.Group]

// onNode reacts to nodes that come, go or learn where they are.
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

// onIdentity gives an identity in quarantine another chance when somebody touches
// its object: that is how a person says that the cause is mended. Deleting it and
// creating it anew is such a touch. It also follows the pre-assignments.
func (r *Reconciler) onIdentity() handler.TypedEventHandler[client.Object, compute.Group] {
	lift := func(o client.Object) {
		id, ok := o.(*v1.AzureIdentity)
		if !ok || id.Spec.Type != v1.UserAssignedMSI {
			return
		}
		if parsed, err := identity.ParseResourceID(id.Spec.ResourceID); err == nil {
			r.groups.lift(parsed.Key())
		}
	}
	preassign := func(ctx context.Context, o client.Object, q groupQueue, gone bool) {
		id, ok := o.(*v1.AzureIdentity)
		if !ok {
			return
		}
		if r.preassign(id, gone) {
			r.wakePopulated(ctx, q)
		}
	}
	return handler.TypedFuncs[client.Object, compute.Group]{
		CreateFunc: func(ctx context.Context, e event.TypedCreateEvent[client.Object], q groupQueue) {
			if !e.IsInInitialList {
				lift(e.Object)
			}
			preassign(ctx, e.Object, q, false)
		},
		DeleteFunc: func(ctx context.Context, e event.TypedDeleteEvent[client.Object], q groupQueue) {
			lift(e.Object)
			preassign(ctx, e.Object, q, true)
		},
		UpdateFunc: func(ctx context.Context, e event.TypedUpdateEvent[client.Object], q groupQueue) {
			if touched(e.ObjectOld, e.ObjectNew) {
				lift(e.ObjectNew)
				preassign(ctx, e.ObjectNew, q, false)
			}
		},
	}
}

// touched tells whether a person changed the object. Its status is our own doing.
func touched(before, after client.Object) bool {
	return before.GetGeneration() != after.GetGeneration() || before.GetUID() != after.GetUID() ||
		(before.GetDeletionTimestamp() == nil) != (after.GetDeletionTimestamp() == nil) ||
		!maps.Equal(before.GetAnnotations(), after.GetAnnotations()) || !maps.Equal(before.GetLabels(), after.GetLabels())
}

// wakePopulated looks at every group that has nodes, soon: whoever changes an
// annotation in a loop does not make us look at all of them each time.
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
