// What makes the attachment controller look at a node group.

package attachment

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
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
	"github.com/podid-io/podid/internal/identity"
)

// workers is how many groups may have an update in flight. ARM grants a
// subscription ten writes a second in the long run, and a VM takes 10 to 20 s:
// some 150 are as many as Azure can be busy with.
const workers = 150

// The pauses after an error of the API server's. The libraries' own default goes
// up to 16 minutes, which would outlast the trouble by far.
const (
	retryFirst = 10 * time.Millisecond
	retryMost  = 15 * time.Second
)

type queue struct {
	mu sync.Mutex
	q  workqueue.TypedRateLimitingInterface[compute.Group]
}

// Kick makes the controller look at a group, and ask Azure before anything else.
func (r *Reconciler) Kick(group compute.Group) {
	st := r.groups.of(group)
	st.mu.Lock()
	st.refresh = true
	st.mu.Unlock()
	r.queue.mu.Lock()
	defer r.queue.mu.Unlock()
	if r.queue.q != nil {
		r.queue.q.Add(group)
	}
}

// Ledgered returns the groups that have a ledger.
func (r *Reconciler) Ledgered(ctx context.Context) ([]compute.Group, error) {
	return r.ledger.Groups(ctx)
}

// Register adds the controller to a manager.
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
		Watches(&v1.AzureAssignedIdentity{}, r.onAssigned()).
		Watches(&corev1.Node{}, onNode()).
		Watches(&v1.AzureIdentity{}, r.onIdentity()).
		WatchesRawSource(source.TypedFunc[compute.Group](r.keepQueue)).
		WithOptions(controller.TypedOptions[compute.Group]{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[compute.Group](retryFirst, retryMost),
		}).
		Complete(r)
}

// keepQueue is a source without events of its own: Kick is its event.
func (r *Reconciler) keepQueue(_ context.Context, q workqueue.TypedRateLimitingInterface[compute.Group]) error {
	r.queue.mu.Lock()
	defer r.queue.mu.Unlock()
	r.queue.q = q
	return nil
}

type groupQueue = workqueue.TypedRateLimitingInterface[compute.Group]

// onAssigned reacts to assigned identities that come, go or need something
// else. That one became Assigned is our own doing and no news.
func (r *Reconciler) onAssigned() handler.TypedEventHandler[client.Object, compute.Group] {
	add := func(ctx context.Context, o client.Object, q groupQueue, left bool) {
		assigned, ok := o.(*v1.AzureAssignedIdentity)
		if !ok {
			return
		}
		group, ok := r.groupOf(ctx, assigned.Spec.NodeName)
		if !ok {
			return
		}
		if left && r.pod(ctx, assigned) == nil {
			// The claim goes with the pod. One whose pod is still there may be
			// for the next object.
			alive := assigned.DeepCopy()
			alive.DeletionTimestamp = nil
			if need, _, ok := needOf(alive); ok {
				r.groups.release(group, need)
			}
		}
		q.Add(group)
	}
	return handler.TypedFuncs[client.Object, compute.Group]{
		CreateFunc: func(ctx context.Context, e event.TypedCreateEvent[client.Object], q groupQueue) {
			add(ctx, e.Object, q, false)
		},
		DeleteFunc: func(ctx context.Context, e event.TypedDeleteEvent[client.Object], q groupQueue) {
			add(ctx, e.Object, q, true)
		},
		UpdateFunc: func(ctx context.Context, e event.TypedUpdateEvent[client.Object], q groupQueue) {
			if matters(e.ObjectOld, e.ObjectNew) {
				add(ctx, e.ObjectOld, q, true)
				add(ctx, e.ObjectNew, q, false)
			}
		},
	}
}

// matters tells whether an update of an assigned identity can change what its
// node group needs or what it should say.
func matters(before, after client.Object) bool {
	a, okA := before.(*v1.AzureAssignedIdentity)
	b, okB := after.(*v1.AzureAssignedIdentity)
	if !okA || !okB {
		return false
	}
	needA, _, hasA := needOf(a)
	needB, _, hasB := needOf(b)
	return needA != needB || hasA != hasB || a.Spec.NodeName != b.Spec.NodeName ||
		(b.Status.Status != v1.StateAssigned && a.Status.Status != b.Status.Status)
}

// groupOf is the node group of a node, false when it has none.
func (r *Reconciler) groupOf(ctx context.Context, nodeName string) (compute.Group, bool) {
	var node corev1.Node
	if nodeName == "" || r.client.Get(ctx, types.NamespacedName{Name: nodeName}, &node) != nil {
		return compute.Group{}, false
	}
	group, err := compute.ParseProviderID(node.Spec.ProviderID)
	return group, err == nil
}

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

// onIdentity ends the quarantine of an identity whose object somebody touched:
// that is how a person says that the cause is mended. Deleting it and creating
// it anew is such a touch.
func (r *Reconciler) onIdentity() handler.TypedEventHandler[client.Object, compute.Group] {
	lift := func(o client.Object, q groupQueue) {
		id, ok := o.(*v1.AzureIdentity)
		if !ok || id.Spec.Type != v1.UserAssignedMSI {
			return
		}
		parsed, err := identity.ParseResourceID(id.Spec.ResourceID)
		if err != nil {
			return
		}
		groups, lifted := r.groups.lift(parsed.Key())
		r.lifted(lifted)
		for _, group := range groups {
			q.Add(group)
		}
	}
	return handler.TypedFuncs[client.Object, compute.Group]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[client.Object], q groupQueue) { lift(e.Object, q) },
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[client.Object], q groupQueue) { lift(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[client.Object], q groupQueue) {
			if e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion() {
				lift(e.ObjectNew, q)
			}
		},
	}
}
