// Package identitystatus reports on an AzureIdentity that Azure refuses it: in the condition
// Assignable, with the reason and the remedy, and in an Event.
//
// The identity's owner looks there, and often may not read the pods of its users. The condition is
// derived from the status of the AzureAssignedIdentities. An identity without problems is never
// written.
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
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/controllers/wakeup"
)

// conflictPause is how long to wait for the cache after a conflicting write by another client.
const conflictPause = 200 * time.Millisecond

const (
	workers    = 4
	retryFirst = 50 * time.Millisecond
)

// Events emits Events. It is implemented by events.Events.
type Events interface {
	// IdentityNotAssignable reports why Azure refuses an identity, once per change. An empty why
	// clears it.
	IdentityNotAssignable(id *v1.AzureIdentity, why string)
	// ForgetIdentity drops what was reported about a deleted identity.
	ForgetIdentity(namespace, name string)
}

// Groups knows the identities that are on node groups without any pod and so have no assigned
// identity. It is implemented by attachment.Groups.
type Groups interface {
	// Standing returns the state of a pre-assigned identity: Azure's refusals, whether any node
	// group has it, and whether it is pre-assigned at all.
	Standing(name types.NamespacedName) (refused []assignment.State, there, preassigned bool)
}

// Controller maintains the condition of identities.
type Controller struct {
	client client.Client
	live   client.Reader
	events Events
	groups Groups
	queue  *wakeup.Objects

	oldCRD atomic.Bool // already logged
}

// NewController returns a Controller. live reads from the API server. queue gets the identities
// whose standing in groups changes.
func NewController(client client.Client, live client.Reader, events Events, groups Groups, queue *wakeup.Objects) *Controller {
	return &Controller{client: client, live: live, events: events, groups: groups, queue: queue}
}

// Reconcile brings one identity's condition up to date.
func (c *Controller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var id v1.AzureIdentity
	err := c.client.Get(ctx, req.NamespacedName, &id)
	if apierrors.IsNotFound(err) {
		c.events.ForgetIdentity(req.Namespace, req.Name)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("read identity %s: %w", req.NamespacedName, err)
	}
	refused, err := c.list(ctx, &id, lookup.RefusedPrefix+req.String())
	if err != nil {
		return reconcile.Result{}, err
	}
	preassigned, assigned, needed := c.groups.Standing(req.NamespacedName)
	if len(refused) == 0 {
		refused = standIns(&id, preassigned)
	}
	if len(refused) == 0 && meta.FindStatusCondition(id.Status.Conditions, v1.ConditionAssignable) != nil {
		all, err := c.list(ctx, &id, req.String())
		if err != nil {
			return reconcile.Result{}, err
		}
		there, asked := Tally(all)
		assigned, needed = assigned || there, needed || asked
	}
	want := Decide(&id, refused, assigned, needed)
	c.announce(&id, want, len(refused) > 0)
	if want == nil {
		return reconcile.Result{}, nil
	}
	return c.write(ctx, &id, *want)
}

// Register adds the controller to a manager.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	return builder.ControllerManagedBy(mgr).
		Named("identitystatus").
		For(&v1.AzureIdentity{}, builder.WithPredicates(identityChanged())).
		Watches(&v1.AzureAssignedIdentity{}, c.onAssigned()).
		WatchesRawSource(source.Func(c.queue.Source)).
		WithOptions(wakeup.Options[reconcile.Request](workers, retryFirst)).
		Complete(c)
}

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

// standIns returns stand-ins for the missing assigned identities of a pre-assigned identity, which
// can be refused before any pod needs it.
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

// announce emits an Event about a refusal. It emits none for an unchanged condition, so that a
// restart of MIC does not repeat all Events.
func (c *Controller) announce(id *v1.AzureIdentity, want *metav1.Condition, refused bool) {
	switch {
	case !refused:
		c.events.IdentityNotAssignable(id, "")
	case want != nil:
		c.events.IdentityNotAssignable(id, want.Message)
	}
}

// list returns the assigned identities under the key that embed this very identity, not an earlier
// one of the same name.
func (c *Controller) list(ctx context.Context, id *v1.AzureIdentity, key string) ([]*v1.AzureAssignedIdentity, error) {
	var list v1.AzureAssignedIdentityList
	if err := c.client.List(ctx, &list, client.MatchingFields{lookup.AssignedByIdentity: key}, client.UnsafeDisableDeepCopy); err != nil {
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

// write patches the condition. The optimistic lock protects conditions that other clients write at
// the same time, because a merge patch replaces the whole list.
func (c *Controller) write(ctx context.Context, id *v1.AzureIdentity, want metav1.Condition) (reconcile.Result, error) {
	log := logr.FromContextOrDiscard(ctx)
	changed := id.DeepCopy()
	meta.SetStatusCondition(&changed.Status.Conditions, want)
	err := c.client.Status().Patch(ctx, changed, client.MergeFromWithOptions(id, client.MergeFromWithOptimisticLock{}))
	switch {
	case err == nil:
		log.Info("identity condition written", "status", want.Status, "reason", want.Reason)
		return reconcile.Result{}, nil
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: conflictPause}, nil
	case apierrors.IsNotFound(err):
		if !c.oldCRD.Load() && c.exists(ctx, id) && c.oldCRD.CompareAndSwap(false, true) {
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

// exists reports whether the API server has the identity. A 404 is ambiguous: it is the same for a
// deleted object and for a CRD without the status subresource.
func (c *Controller) exists(ctx context.Context, id *v1.AzureIdentity) bool {
	var live v1.AzureIdentity
	return c.live.Get(ctx, client.ObjectKeyFromObject(id), &live) == nil && live.UID == id.UID
}

// nameOf returns the name of the identity that an assigned identity embeds.
func nameOf(assigned *v1.AzureAssignedIdentity) (types.NamespacedName, bool) {
	ref := assigned.Spec.AzureIdentityRef
	if ref == nil {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, true
}
