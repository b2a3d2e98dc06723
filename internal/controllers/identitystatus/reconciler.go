// Package identitystatus says on an AzureIdentity when Azure refuses it: in the
// condition Assignable, with the reason and the remedy, and in an Event.
//
// The one who made the identity looks there, and often may not look at the pods
// of those who use it. What it says comes from the status of the
// AzureAssignedIdentities; an identity without trouble is never written.
package identitystatus

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/controllers/wakeup"
)

// Keys returns an assigned identity's keys in the index lookup.AssignedByIdentity.
func Keys(assigned *v1.AzureAssignedIdentity) []string {
	ref := assigned.Spec.AzureIdentityRef
	if ref == nil {
		return nil
	}
	key := ref.Namespace + "/" + ref.Name
	if Refused(assigned) {
		return []string{key, lookup.RefusedPrefix + key}
	}
	return []string{key}
}

// conflictPause is how long the cache is given to catch up with a change that
// somebody else made.
const conflictPause = 200 * time.Millisecond

// Events tells people; announce.Events does.
type Events interface {
	// IdentityNotAssignable says why Azure refuses an identity, once per
	// change; "" takes it back.
	IdentityNotAssignable(id *v1.AzureIdentity, why string)
	// ForgetIdentity drops what was said about an identity that is gone.
	ForgetIdentity(namespace, name string)
}

// Groups know of identities that are on node groups without any pod, of which no
// assigned identity tells; attachment.Groups does.
type Groups interface {
	// Standing tells how a pre-assigned identity stands: what Azure refused it
	// with, whether any node group has it, and whether it is pre-assigned at all.
	Standing(name types.NamespacedName) (refused []assignment.State, there, preassigned bool)
}

// Reconciler keeps the condition of identities.
type Reconciler struct {
	Client client.Client
	// Live reads past the cache.
	Live   client.Reader
	Events Events
	Groups Groups

	kicks  wakeup.Queue[reconcile.Request]
	oldCRD atomic.Bool // said so already
}

// Reconcile makes one identity's condition say what is so.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var id v1.AzureIdentity
	err := r.Client.Get(ctx, req.NamespacedName, &id)
	if apierrors.IsNotFound(err) {
		r.Events.ForgetIdentity(req.Namespace, req.Name)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("read identity %s: %w", req.NamespacedName, err)
	}
	refused, err := r.list(ctx, &id, lookup.RefusedPrefix+req.String())
	if err != nil {
		return reconcile.Result{}, err
	}
	preassigned, assigned, needed := r.Groups.Standing(req.NamespacedName)
	if len(refused) == 0 {
		refused = standIns(&id, preassigned)
	}
	if len(refused) == 0 && meta.FindStatusCondition(id.Status.Conditions, v1.ConditionAssignable) != nil {
		all, err := r.list(ctx, &id, req.String())
		if err != nil {
			return reconcile.Result{}, err
		}
		there, asked := Tally(all)
		assigned, needed = assigned || there, needed || asked
	}
	want := Decide(&id, refused, assigned, needed)
	r.announce(&id, want, len(refused) > 0)
	if want == nil {
		return reconcile.Result{}, nil
	}
	return r.write(ctx, &id, *want)
}

// Look looks at identities soon; whoever keeps the standing of those that are
// pre-assigned calls it.
func (r *Reconciler) Look(names ...types.NamespacedName) {
	for _, name := range names {
		r.kicks.Add(reconcile.Request{NamespacedName: name})
	}
}

// standIns say what assigned identities would, if there were any: a pre-assigned
// identity is refused before any pod needs it.
func standIns(id *v1.AzureIdentity, refused []assignment.State) (out []*v1.AzureAssignedIdentity) {
	for _, said := range refused {
		out = append(out, &v1.AzureAssignedIdentity{
			Spec: v1.AzureAssignedIdentitySpec{AzureIdentityRef: &v1.AzureIdentityCopy{
				ObjectMeta: metav1.ObjectMeta{Namespace: id.Namespace, Name: id.Name, UID: id.UID, Generation: id.Generation},
			}},
			Status: v1.AzureAssignedIdentityStatus{Status: said.Status, Reason: said.Reason, Message: said.Message},
		})
	}
	return slices.DeleteFunc(out, func(a *v1.AzureAssignedIdentity) bool { return !Refused(a) })
}

// announce says a refusal in an Event, which a condition that stays the same is
// not: whoever restarts MIC is not to be told everything again.
func (r *Reconciler) announce(id *v1.AzureIdentity, want *metav1.Condition, refused bool) {
	switch {
	case !refused:
		r.Events.IdentityNotAssignable(id, "")
	case want != nil:
		r.Events.IdentityNotAssignable(id, want.Message)
	}
}

// list returns the assigned identities with that key that embed this very
// identity, not one of the same name before it.
func (r *Reconciler) list(ctx context.Context, id *v1.AzureIdentity, key string) ([]*v1.AzureAssignedIdentity, error) {
	var list v1.AzureAssignedIdentityList
	if err := r.Client.List(ctx, &list, client.MatchingFields{lookup.AssignedByIdentity: key}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list assigned identities of identity %s/%s: %w", id.Namespace, id.Name, err)
	}
	var out []*v1.AzureAssignedIdentity
	for i := range list.Items {
		if a := &list.Items[i]; a.DeletionTimestamp.IsZero() && a.Spec.AzureIdentityRef.UID == id.UID {
			out = append(out, a)
		}
	}
	return out, nil
}

// write patches the condition. The lock keeps conditions that somebody else
// writes at this moment: a merge patch replaces the whole list.
func (r *Reconciler) write(ctx context.Context, id *v1.AzureIdentity, want metav1.Condition) (reconcile.Result, error) {
	log := logr.FromContextOrDiscard(ctx)
	changed := id.DeepCopy()
	meta.SetStatusCondition(&changed.Status.Conditions, want)
	err := r.Client.Status().Patch(ctx, changed, client.MergeFromWithOptions(id, client.MergeFromWithOptimisticLock{}))
	switch {
	case err == nil:
		log.Info("identity condition written", "status", want.Status, "reason", want.Reason)
		return reconcile.Result{}, nil
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: conflictPause}, nil
	case apierrors.IsNotFound(err):
		if !r.oldCRD.Load() && r.exists(ctx, id) && r.oldCRD.CompareAndSwap(false, true) {
			log.V(1).Info("conditions of identities cannot be written, the custom resource definitions are of an older release: " +
				"apply those of this release (kubectl apply -f charts/podid/crds); Events tell about refused identities meanwhile")
		}
		return reconcile.Result{}, nil
	case apierrors.IsForbidden(err):
		return reconcile.Result{}, reconcile.TerminalError(fmt.Errorf("write condition of identity %s/%s: %w: "+
			"mic needs the right to patch azureidentities/status, which the chart's ClusterRole grants", id.Namespace, id.Name, err))
	}
	return reconcile.Result{}, fmt.Errorf("write condition of identity %s/%s: %w", id.Namespace, id.Name, err)
}

// exists tells whether the API server has the identity: its answer about a status
// that is no subresource is the same 404 as that about an object that is gone.
func (r *Reconciler) exists(ctx context.Context, id *v1.AzureIdentity) bool {
	var live v1.AzureIdentity
	return r.Live.Get(ctx, client.ObjectKeyFromObject(id), &live) == nil && live.UID == id.UID
}

// nameOf is the identity that an assigned identity embeds.
func nameOf(assigned *v1.AzureAssignedIdentity) (types.NamespacedName, bool) {
	ref := assigned.Spec.AzureIdentityRef
	if ref == nil {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, true
}
