// Cache reads for one pod.

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
	"github.com/podid-io/podid/internal/controllers/lookup"
)

// pod returns the pod, or nil if it does not exist or has no binding label. The cache holds only
// pods with that label.
func (c *Controller) pod(ctx context.Context, name types.NamespacedName) (*corev1.Pod, error) {
	var pod corev1.Pod
	err := c.client.Get(ctx, name, &pod, lookup.NoCopy())
	if apierrors.IsNotFound(err) {
		return nil, nil // a missing pod is not an error
	}
	if err != nil {
		return nil, fmt.Errorf("read pod %s: %w", name, err)
	}
	return &pod, nil
}

// node returns the pod's node, or nil if it does not exist. If the pod arrives before its node, the
// node's own event queues the pod again.
func (c *Controller) node(ctx context.Context, name string) (*corev1.Node, error) {
	var node corev1.Node
	err := c.client.Get(ctx, client.ObjectKey{Name: name}, &node, lookup.NoCopy())
	if apierrors.IsNotFound(err) {
		return nil, nil // a missing node is not an error
	}
	if err != nil {
		return nil, fmt.Errorf("read node %s: %w", name, err)
	}
	return &node, nil
}

// taken reports whether an object of that name exists and belongs to another pair. An object of the
// same pair would have been observed already.
func (c *Controller) taken(ctx context.Context, pod types.NamespacedName, namespace, name string) bool {
	var other v1.AzureAssignedIdentity
	if err := c.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &other, lookup.NoCopy()); err != nil {
		return false
	}
	leaving := !other.DeletionTimestamp.IsZero() && (len(other.Finalizers) == 0 || slices.Equal(other.Finalizers, []string{v1.Finalizer}))
	if leaving && other.Spec.PodNamespace == pod.Namespace && other.Spec.Pod == pod.Name {
		return false // it belongs to MIC alone: its name is free in a moment
	}
	logr.FromContextOrDiscard(ctx).V(1).Info("name of assigned identity is taken, using a hashed one",
		"assignedIdentity", namespace+"/"+name, "by", other.Spec.PodNamespace+"/"+other.Spec.Pod)
	return true
}
