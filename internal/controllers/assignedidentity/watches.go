// Which events queue a pod in the assignedidentity controller.

package assignedidentity

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/controllers/wakeup"
)

// workers is how many pods are reconciled at once. A pod costs one or two writes of some 5 to 20 ms
// each, and one node group must not occupy all workers.
const workers = 64

// Backoff after an API server error. The library's default goes up to 16 minutes, far longer than a
// typical outage.
const (
	retryFirst = 10 * time.Millisecond
	retryMost  = 15 * time.Second
)

// Kick queues a pod, which need not exist.
func (r *Reconciler) Kick(pod types.NamespacedName) { r.Enqueue(pod) }

// Enqueue queues pods after a change that no watch reports.
func (r *Reconciler) Enqueue(pods ...types.NamespacedName) {
	for _, pod := range pods {
		r.queue.Add(reconcile.Request{NamespacedName: pod})
	}
}

// PolicyChanged queues the pods of a namespace, or all pods if namespace is "".
func (r *Reconciler) PolicyChanged(namespace string) {
	for _, pod := range lookup.Pods(context.Background(), r.client, client.InNamespace(namespace)) {
		r.queue.Add(pod)
	}
}

// Register adds the controller to a manager.
func (r *Reconciler) Register(mgr manager.Manager) error {
	return builder.ControllerManagedBy(mgr).
		Named("assignedidentity").
		Watches(&corev1.Pod{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(podChanged())).
		Watches(&v1.AzureAssignedIdentity{}, handler.EnqueueRequestsFromMapFunc(podOf), builder.WithPredicates(assignedChanged())).
		Watches(&v1.AzureIdentityBinding{}, handler.EnqueueRequestsFromMapFunc(r.podsOfBinding), builder.WithPredicates(written())).
		Watches(&v1.AzureIdentity{}, handler.EnqueueRequestsFromMapFunc(r.podsOfIdentity), builder.WithPredicates(written())).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.podsOfNode), builder.WithPredicates(nodeChanged())).
		WatchesRawSource(source.Func(r.queue.Source)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryFirst, retryMost),
			NewQueue:                wakeup.NewWorkQueue[reconcile.Request],
		}).
		Complete(r)
}

// CatchUp lists the pods that exist at startup. It is a manager.Runnable that runs only on the
// leader.
type CatchUp struct{ Pods *Reconciler }

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (CatchUp) NeedLeaderElection() bool { return true }

// Start lists the pods in the cache.
func (c CatchUp) Start(ctx context.Context) error {
	var pods corev1.PodList
	if err := c.Pods.client.List(ctx, &pods, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	names := make([]types.NamespacedName, 0, len(pods.Items))
	for i := range pods.Items {
		names = append(names, client.ObjectKeyFromObject(&pods.Items[i]))
	}
	c.Pods.backlog.begin(names, c.Pods.placement.CaughtUp, c.Pods.Enqueue)
	return nil
}

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
func (r *Reconciler) podsOfBinding(ctx context.Context, o client.Object) []reconcile.Request {
	binding, ok := o.(*v1.AzureIdentityBinding)
	if !ok {
		return nil
	}
	return lookup.PodsOfBinding(ctx, r.client, lookup.PodsBySelector, r.rules.Current(), binding)
}

// podsOfIdentity returns requests for the pods of the identity's bindings.
func (r *Reconciler) podsOfIdentity(ctx context.Context, o client.Object) []reconcile.Request {
	return lookup.PodsOfIdentity(ctx, r.client, lookup.PodsBySelector, r.rules.Current(), o)
}

// podsOfNode returns requests for the pods on the node, and for the pods whose assigned identities
// name the node.
func (r *Reconciler) podsOfNode(ctx context.Context, o client.Object) []reconcile.Request {
	requests := lookup.Pods(ctx, r.client, client.MatchingFields{lookup.PodsByNode: o.GetName()})
	var assigned v1.AzureAssignedIdentityList
	err := r.client.List(ctx, &assigned, client.MatchingFields{lookup.AssignedByNode: o.GetName()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return requests
	}
	for i := range assigned.Items {
		requests = append(requests, podOf(ctx, &assigned.Items[i])...)
	}
	return requests
}
