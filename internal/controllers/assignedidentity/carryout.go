// Writing a pod's assigned identities.

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

// catchUp is the pause for the cache to learn of a write that it did not know.
const catchUp = 100 * time.Millisecond

// carryOut does what the plan says. One object's failure does not keep the
// others from being written; all failures are returned, but for those that only
// tell that the cache is a moment behind: then behind is true.
func (r *Reconciler) carryOut(ctx context.Context, t *target, plan assignment.PodPlan, began time.Time) (behind bool, err error) {
	var failures []error
	for _, assigned := range plan.Delete {
		// First those that somebody else deleted: they hold a name.
		if !assigned.DeletionTimestamp.IsZero() {
			failures = append(failures, r.remove(ctx, assigned, began))
		}
	}
	for _, assigned := range plan.Create {
		failures = append(failures, r.create(ctx, t, assigned))
	}
	for _, assigned := range plan.Update {
		failures = append(failures, r.update(ctx, t, assigned, began))
	}
	for _, assigned := range plan.Delete {
		if assigned.DeletionTimestamp.IsZero() {
			failures = append(failures, r.remove(ctx, assigned, began))
		}
	}
	failures = slices.DeleteFunc(failures, func(err error) bool {
		// A name can be another pair's, too, which the next try will see.
		late := apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err)
		if late {
			behind = true
			logr.FromContextOrDiscard(ctx).V(1).Info("object changed meanwhile, looking again", "cause", err.Error())
		}
		return late
	})
	return behind, errors.Join(failures...)
}

// create writes a new object.
func (r *Reconciler) create(ctx context.Context, t *target, assigned *v1.AzureAssignedIdentity) error {
	err := r.client.Create(ctx, assigned)
	switch {
	case err == nil:
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the pod goes with its namespace
	default:
		return fmt.Errorf("create assigned identity %s/%s: %w", assigned.Namespace, assigned.Name, err)
	}
	logr.FromContextOrDiscard(ctx).Info("assigned identity created", "assignedIdentity", assigned.Namespace+"/"+assigned.Name,
		"node", assigned.Spec.NodeName, "state", assigned.Status.Status)
	r.arrived(t, assigned)
	return nil
}

// update writes an object that exists. One that changed meanwhile has to be looked
// at again: if only its state changed, its watch does not bring it back here.
func (r *Reconciler) update(ctx context.Context, t *target, assigned *v1.AzureAssignedIdentity, began time.Time) error {
	err := r.client.Update(ctx, assigned)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update assigned identity %s/%s: %w", assigned.Namespace, assigned.Name, err)
	}
	r.metrics.AssignedIdentityUpdated(r.now().Sub(began))
	logr.FromContextOrDiscard(ctx).Info("assigned identity updated", "assignedIdentity", assigned.Namespace+"/"+assigned.Name,
		"node", assigned.Spec.NodeName, "state", assigned.Status.Status)
	if !t.said(assigned) {
		r.arrived(t, assigned)
	}
	return nil
}

// said tells whether the object was as far before.
func (t *target) said(assigned *v1.AzureAssignedIdentity) bool {
	return slices.ContainsFunc(t.in.Observed, func(before *v1.AzureAssignedIdentity) bool {
		return before.UID == assigned.UID && before.Spec.NodeName == assigned.Spec.NodeName &&
			before.Status.Status == assigned.Status.Status && before.Status.Reason == assigned.Status.Reason
	})
}

// arrived tells people about an object that was just written.
func (r *Reconciler) arrived(t *target, assigned *v1.AzureAssignedIdentity) {
	switch {
	case assigned.Status.Status == v1.StateAssigned:
		r.metrics.AssignedIdentityAdded(r.now().Sub(t.since))
		r.events.Assigned(assigned, t.pod)
	case assigned.Status.Reason != "":
		r.events.NotAssigned(assigned, t.pod, assigned.Status.Message)
	}
}

// remove deletes an object and lets go of its finalizer. Nothing has to be done
// first: what to take from the node group is in the ledger.
func (r *Reconciler) remove(ctx context.Context, assigned *v1.AzureAssignedIdentity, began time.Time) error {
	name := assigned.Namespace + "/" + assigned.Name
	at := slices.Index(assigned.Finalizers, v1.Finalizer)
	if !assigned.DeletionTimestamp.IsZero() && at < 0 {
		return nil // somebody else's finalizer holds it; what there was to say has been said
	}
	if assigned.DeletionTimestamp.IsZero() {
		uid := assigned.UID
		err := r.client.Delete(ctx, assigned, client.Preconditions(metav1.Preconditions{UID: &uid}))
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
		// No lock: a finalizer that another writer adds at this very moment is
		// not expected, and the deletion just made has changed the version.
		err := r.client.Patch(ctx, released, client.MergeFrom(assigned))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("release assigned identity %s: %w", name, err)
		}
	}
	logr.FromContextOrDiscard(ctx).Info("assigned identity removed", "assignedIdentity", name, "node", assigned.Spec.NodeName)
	r.metrics.AssignedIdentityDeleted(r.now().Sub(began))
	r.events.Removed(assigned)
	return nil
}
