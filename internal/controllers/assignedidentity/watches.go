// Which events queue a pod in the assignedidentity controller.

package assignedidentity

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/lookup"
)

// podChanged passes changes that can affect a pod's assigned identities. It drops the kubelet's
// frequent status updates.
func podChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, okA := e.ObjectOld.(*corev1.Pod)
		after, okB := e.ObjectNew.(*corev1.Pod)
		return !okA || !okB || before.UID != after.UID ||
			before.Labels[v1.BindingLabel] != after.Labels[v1.BindingLabel] ||
			before.Spec.NodeName != after.Spec.NodeName || living(before) != living(after)
	}}
}

// assignedChanged drops status changes, which are made by the attachment controller. It passes them
// if an object is being deleted or has lost its state.
func assignedChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, okA := e.ObjectOld.(*v1.AzureAssignedIdentity)
		after, okB := e.ObjectNew.(*v1.AzureAssignedIdentity)
		return !okA || !okB || !sameSpec(before, after) ||
			before.DeletionTimestamp.IsZero() != after.DeletionTimestamp.IsZero() ||
			after.Status.Status == "" || after.Status.Status == v1.StateUnassigned
	}}
}

// sameSpec reports whether two versions of an object name the same pod, node, identity and binding.
func sameSpec(before, after *v1.AzureAssignedIdentity) bool {
	return before.Spec.Pod == after.Spec.Pod && before.Spec.PodNamespace == after.Spec.PodNamespace &&
		before.Spec.NodeName == after.Spec.NodeName && sameRefs(before, after)
}

func sameRefs(before, after *v1.AzureAssignedIdentity) bool {
	a, b := before.Spec.AzureIdentityRef, after.Spec.AzureIdentityRef
	c, d := before.Spec.AzureBindingRef, after.Spec.AzureBindingRef
	return a != nil && b != nil && c != nil && d != nil && a.UID == b.UID && a.Generation == b.Generation &&
		c.UID == d.UID && c.Generation == d.Generation
}

// written drops resync events.
func written() predicate.Predicate { return predicate.ResourceVersionChangedPredicate{} }

// nodeChanged passes nodes that are created, deleted or given a provider ID.
func nodeChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, okA := e.ObjectOld.(*corev1.Node)
		after, okB := e.ObjectNew.(*corev1.Node)
		return !okA || !okB || before.Spec.ProviderID != after.Spec.ProviderID
	}}
}

// podOf returns a request for the pod of an assigned identity.
func podOf(_ context.Context, o client.Object) []reconcile.Request {
	assigned, ok := o.(*v1.AzureAssignedIdentity)
	if !ok {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: assigned.Spec.PodNamespace, Name: assigned.Spec.Pod}}}
}

// podsOfBinding returns requests for the pods with the binding's selector.
func (c *Controller) podsOfBinding(ctx context.Context, o client.Object) []reconcile.Request {
	binding, ok := o.(*v1.AzureIdentityBinding)
	if !ok {
		return nil
	}
	return lookup.PodsOfBinding(ctx, c.client, lookup.PodsBySelector, c.rules.Current(), binding)
}

// podsOfIdentity returns requests for the pods of the identity's bindings.
func (c *Controller) podsOfIdentity(ctx context.Context, o client.Object) []reconcile.Request {
	return lookup.PodsOfIdentity(ctx, c.client, lookup.PodsBySelector, c.rules.Current(), o)
}

// podsOfNode returns requests for the pods on the node, and for the pods whose assigned identities
// name the node.
func (c *Controller) podsOfNode(ctx context.Context, o client.Object) []reconcile.Request {
	requests := lookup.Pods(ctx, c.client, client.MatchingFields{lookup.PodsByNode: o.GetName()})
	var assigned v1.AzureAssignedIdentityList
	err := c.client.List(ctx, &assigned, client.MatchingFields{lookup.AssignedByNode: o.GetName()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return requests
	}
	for i := range assigned.Items {
		requests = append(requests, podOf(ctx, &assigned.Items[i])...)
	}
	return requests
}
