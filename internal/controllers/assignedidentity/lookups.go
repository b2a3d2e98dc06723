// What the caches are asked about one pod.

package assignedidentity

import (
	"context"
	"fmt"
	"slices"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
)

// asItIs reads the caches without copies: what they hold is never written to here.
// Copies would be a tenth of all that is allocated in a flood of pods. Whoever
// changes an object copies it first.
func asItIs() client.GetOption { return &client.GetOptions{UnsafeDisableDeepCopy: new(true)} }

// observed returns the pod's assigned identities.
func (r *Reconciler) observed(ctx context.Context, pod types.NamespacedName) ([]*v1.AzureAssignedIdentity, error) {
	var list v1.AzureAssignedIdentityList
	if err := r.client.List(ctx, &list, client.MatchingFields{AssignedByPod: pod.String()}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list assigned identities of pod %s: %w", pod, err)
	}
	observed := make([]*v1.AzureAssignedIdentity, 0, len(list.Items))
	for i := range list.Items {
		observed = append(observed, &list.Items[i])
	}
	return observed, nil
}

// pod returns the pod, nil when there is none (or none with a binding label,
// which the cache does not hold).
func (r *Reconciler) pod(ctx context.Context, name types.NamespacedName) (*corev1.Pod, error) {
	var pod corev1.Pod
	err := r.client.Get(ctx, name, &pod, asItIs())
	if apierrors.IsNotFound(err) {
		return nil, nil // no pod is an answer, not a failure
	}
	if err != nil {
		return nil, fmt.Errorf("read pod %s: %w", name, err)
	}
	return &pod, nil
}

// node returns the pod's node, nil when it is gone. A node whose pod arrived
// first makes itself known by its own event.
func (r *Reconciler) node(ctx context.Context, name string) (*corev1.Node, error) {
	var node corev1.Node
	err := r.client.Get(ctx, client.ObjectKey{Name: name}, &node, asItIs())
	if apierrors.IsNotFound(err) {
		return nil, nil // no node is an answer, not a failure
	}
	if err != nil {
		return nil, fmt.Errorf("read node %s: %w", name, err)
	}
	return &node, nil
}

// taken tells whether the object of that name exists and is another pair's: its
// own pair's would have been observed.
func (r *Reconciler) taken(ctx context.Context, pod types.NamespacedName, namespace, name string) bool {
	var other v1.AzureAssignedIdentity
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &other, asItIs()); err != nil {
		return false
	}
	leaving := !other.DeletionTimestamp.IsZero() && (len(other.Finalizers) == 0 || slices.Equal(other.Finalizers, []string{v1.Finalizer}))
	if leaving && other.Spec.PodNamespace == pod.Namespace && other.Spec.Pod == pod.Name {
		return false // our own, and nobody else holds it: its name is free in a moment
	}
	logr.FromContextOrDiscard(ctx).V(1).Info("name of assigned identity is taken, using a hashed one",
		"assignedIdentity", namespace+"/"+name, "by", other.Spec.PodNamespace+"/"+other.Spec.Pod)
	return true
}
