// Which events queue a pod in the readiness controller.

package readiness

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/lookup"
)

// podChanged passes pods that have or need a condition, on changes that affect it.
func podChanged() predicate.Predicate {
	concerned := func(o client.Object) bool {
		pod, ok := o.(*corev1.Pod)
		return ok && Concerned(pod)
	}
	return predicate.Funcs{
		// For other pods, the event of a refused assigned identity queues the pod.
		CreateFunc: func(e event.CreateEvent) bool { return concerned(e.Object) },
		// A pod that leaves the cache while it is not being deleted has lost its label.
		DeleteFunc: func(e event.DeleteEvent) bool {
			return e.Object.GetDeletionTimestamp().IsZero() && concerned(e.Object)
		},
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, okA := e.ObjectOld.(*corev1.Pod)
			after, okB := e.ObjectNew.(*corev1.Pod)
			return okA && okB && (Concerned(before) || Concerned(after)) && (before.UID != after.UID ||
				before.Labels[v1.BindingLabel] != after.Labels[v1.BindingLabel] ||
				before.Spec.NodeName != after.Spec.NodeName ||
				!equality.Semantic.DeepEqual(condition(before), condition(after)))
		},
	}
}

// onAssigned queues the pods whose assigned identities are created, deleted or change their status.
// For pods without gate or condition, only a refusal matters.
func (c *Controller) onAssigned() handler.EventHandler {
	add := func(ctx context.Context, o client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		assigned, ok := o.(*v1.AzureAssignedIdentity)
		if !ok {
			return
		}
		name := types.NamespacedName{Namespace: assigned.Spec.PodNamespace, Name: assigned.Spec.Pod}
		if refuses(assigned.Status.Reason) || c.concerned(ctx, name) {
			q.Add(reconcile.Request{NamespacedName: name})
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			add(ctx, e.Object, q)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			add(ctx, e.Object, q)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			if e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion() {
				add(ctx, e.ObjectNew, q)
			}
		},
	}
}

// concerned reports whether the cache has the pod and Concerned is true for it.
func (c *Controller) concerned(ctx context.Context, name types.NamespacedName) bool {
	var pod corev1.Pod
	return c.client.Get(ctx, name, &pod, lookup.NoCopy()) == nil && Concerned(&pod)
}

// podsOfBinding returns the pods with the binding's selector that have or need a condition.
func (c *Controller) podsOfBinding(ctx context.Context, o client.Object) []reconcile.Request {
	binding, ok := o.(*v1.AzureIdentityBinding)
	if !ok {
		return nil
	}
	return lookup.PodsOfBinding(ctx, c.client, lookup.GatedPodsBySelector, c.rules.Current(), binding)
}

// podsOfIdentity returns the same pods for all bindings of the identity.
func (c *Controller) podsOfIdentity(ctx context.Context, o client.Object) []reconcile.Request {
	return lookup.PodsOfIdentity(ctx, c.client, lookup.GatedPodsBySelector, c.rules.Current(), o)
}
