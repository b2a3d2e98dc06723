// Which events queue an identity in the identitystatus controller.

package identitystatus

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/lookup"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// identityChanged passes identities whose spec changes. It also passes those with a condition,
// whose problem may have ended while no MIC ran.
func identityChanged() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool {
			id, ok := e.Object.(*v1.AzureIdentity)
			return ok && troubled(id)
		},
		UpdateFunc: func(e event.UpdateEvent) bool {
			id, ok := e.ObjectNew.(*v1.AzureIdentity)
			return ok && troubled(id) && e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion()
		},
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// troubled reports whether an identity has a condition that signals a problem.
func troubled(id *v1.AzureIdentity) bool {
	have := meta.FindStatusCondition(id.Status.Conditions, v1.ConditionAssignable)
	return have != nil && have.Status != metav1.ConditionTrue
}

// onAssigned queues identities with a refused assigned identity, and those with a problem. In a
// healthy cluster nothing is ever queued.
func (c *Controller) onAssigned() handler.EventHandler {
	add := func(ctx context.Context, o client.Object, q queue) {
		assigned, ok := o.(*v1.AzureAssignedIdentity)
		if !ok {
			return
		}
		if name, ok := nameOf(assigned); ok && (Refused(assigned) || c.inTrouble(ctx, name)) {
			q.Add(reconcile.Request{NamespacedName: name})
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { add(ctx, e.Object, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { add(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			before, okA := e.ObjectOld.(*v1.AzureAssignedIdentity)
			after, okB := e.ObjectNew.(*v1.AzureAssignedIdentity)
			if okA && okB && !same(before, after) {
				add(ctx, e.ObjectOld, q) // the old version may have named another identity
				add(ctx, e.ObjectNew, q)
			}
		},
	}
}

// inTrouble reports whether the cache has the identity and it is troubled.
func (c *Controller) inTrouble(ctx context.Context, name client.ObjectKey) bool {
	var id v1.AzureIdentity
	return c.client.Get(ctx, name, &id, lookup.NoCopy()) == nil && troubled(&id)
}

// same reports whether two versions of an assigned identity have the same status for the same
// identity.
func same(before, after *v1.AzureAssignedIdentity) bool {
	a, b := before.Spec.AzureIdentityRef, after.Spec.AzureIdentityRef
	return (a == nil) == (b == nil) && (a == nil || a.UID == b.UID && a.Generation == b.Generation) &&
		before.DeletionTimestamp.Equal(after.DeletionTimestamp) && before.Status.Status == after.Status.Status &&
		before.Status.Reason == after.Status.Reason && before.Status.Message == after.Status.Message
}
