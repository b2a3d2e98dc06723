// Writes of a pod's assigned identities.

package assignedidentity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
)

// catchUp is how long to wait for the cache to observe a write that it has not seen yet.
const catchUp = 100 * time.Millisecond

// carryOut executes the plan. A failure with one object does not stop the others, and all failures
// are returned. Errors that only show that the cache is stale are not returned: they set behind
// instead.
func (c *Controller) carryOut(ctx context.Context, t *target, plan assignment.PodPlan, began time.Time) (behind bool, err error) {
	var failures []error
	for _, assigned := range plan.Delete {
		// Start with objects that another client deleted, because they occupy a name.
		if !assigned.DeletionTimestamp.IsZero() {
			failures = append(failures, c.remove(ctx, assigned, began))
		}
	}
	for _, assigned := range plan.Create {
		failures = append(failures, c.create(ctx, t, assigned))
	}
	for _, assigned := range plan.Update {
		failures = append(failures, c.update(ctx, t, assigned, began))
	}
	for _, assigned := range plan.Delete {
		if assigned.DeletionTimestamp.IsZero() {
			failures = append(failures, c.remove(ctx, assigned, began))
		}
	}
	failures = slices.DeleteFunc(failures, func(err error) bool {
		// The name can also belong to another pair, which the next attempt will see.
		late := apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err)
		if late {
			behind = true
			logr.FromContextOrDiscard(ctx).V(1).Info("object changed meanwhile, looking again", "cause", err.Error())
		}
		return late
	})
	return behind, errors.Join(failures...)
}

// create creates an object.
func (c *Controller) create(ctx context.Context, t *target, assigned *v1.AzureAssignedIdentity) error {
	err := c.client.Create(ctx, assigned)
	switch {
	case err == nil:
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the namespace is being deleted, and the pod with it
	default:
		return fmt.Errorf("create assigned identity %s/%s: %w", assigned.Namespace, assigned.Name, err)
	}
	logr.FromContextOrDiscard(ctx).Info("assigned identity created", "assignedIdentity", assigned.Namespace+"/"+assigned.Name,
		"node", assigned.Spec.NodeName, "state", assigned.Status.Status)
	c.arrived(t, assigned)
	return nil
}

// update updates an object. If the object changed in the meantime, the pod must be queued again: a
// change of status alone does not trigger the watch.
func (c *Controller) update(ctx context.Context, t *target, assigned *v1.AzureAssignedIdentity, began time.Time) error {
	err := c.client.Update(ctx, assigned)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update assigned identity %s/%s: %w", assigned.Namespace, assigned.Name, err)
	}
	c.metrics.AssignedIdentityUpdated(time.Since(began))
	logr.FromContextOrDiscard(ctx).Info("assigned identity updated", "assignedIdentity", assigned.Namespace+"/"+assigned.Name,
		"node", assigned.Spec.NodeName, "state", assigned.Status.Status)
	if !t.said(assigned) {
		c.arrived(t, assigned)
	}
	return nil
}

// said reports whether the object had the same state before.
func (t *target) said(assigned *v1.AzureAssignedIdentity) bool {
	return slices.ContainsFunc(t.in.Observed, func(before *v1.AzureAssignedIdentity) bool {
		return before.UID == assigned.UID && before.Spec.NodeName == assigned.Spec.NodeName &&
			before.Status.Status == assigned.Status.Status && before.Status.Reason == assigned.Status.Reason
	})
}

// arrived emits the Event about an object that was just written.
func (c *Controller) arrived(t *target, assigned *v1.AzureAssignedIdentity) {
	switch {
	case assigned.Status.Status == v1.StateAssigned:
		c.metrics.AssignedIdentityAdded(time.Since(t.since))
		c.events.Assigned(assigned, t.pod)
	case assigned.Status.Reason != "":
		c.events.NotAssigned(assigned, t.pod, assigned.Status.Message)
	}
}

// remove deletes an object and removes its finalizer. No other step has to come first: the ledger
// records what to detach from the node group.
func (c *Controller) remove(ctx context.Context, assigned *v1.AzureAssignedIdentity, began time.Time) error {
	name := assigned.Namespace + "/" + assigned.Name
	at := slices.Index(assigned.Finalizers, v1.Finalizer)
	if !assigned.DeletionTimestamp.IsZero() && at < 0 {
		return nil // another client's finalizer holds it, and the Event was already emitted
	}
	if assigned.DeletionTimestamp.IsZero() {
		uid := assigned.UID
		err := c.client.Delete(ctx, assigned, client.Preconditions(metav1.Preconditions{UID: &uid}))
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("delete assigned identity %s: %w", name, err)
		}
	}
	if at >= 0 {
		released := assigned.DeepCopy()
		released.Finalizers = slices.Delete(released.Finalizers, at, at+1)
		// No optimistic lock: the deletion above has changed the version, and another writer is not
		// expected to add a finalizer at this moment.
		err := c.client.Patch(ctx, released, client.MergeFrom(assigned))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("release assigned identity %s: %w", name, err)
		}
	}
	logr.FromContextOrDiscard(ctx).Info("assigned identity removed", "assignedIdentity", name, "node", assigned.Spec.NodeName)
	c.metrics.AssignedIdentityDeleted(time.Since(began))
	c.events.Removed(assigned)
	return nil
}
