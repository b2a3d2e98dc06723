// The Broker condition of an identity.

package broker

import (
	"context"
	"fmt"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/reason"
)

// well clears the condition of an identity. An identity that never had a problem is not written.
func (c *Controller) well(ctx context.Context, id *v1.AzureIdentity) error {
	c.events.BrokerMissing(id, "")
	have := meta.FindStatusCondition(id.Status.Conditions, v1.ConditionBroker)
	if have == nil || have.Status == metav1.ConditionTrue {
		return nil
	}
	return c.write(ctx, id, metav1.Condition{
		Type: v1.ConditionBroker, Status: metav1.ConditionTrue, Reason: "Ready", Message: "the broker ServiceAccount is there",
	})
}

// ill reports why there is no broker, and schedules a retry.
func (c *Controller) ill(ctx context.Context, id *v1.AzureIdentity, refusal *reason.Refusal) (reconcile.Result, error) {
	name, message := refusal.Reason.Name(), refusal.Text()
	c.events.BrokerMissing(id, message)
	again := reconcile.Result{RequeueAfter: lookAgain}
	have := meta.FindStatusCondition(id.Status.Conditions, v1.ConditionBroker)
	if have != nil && have.Status == metav1.ConditionFalse && have.Reason == name && have.Message == message {
		return again, nil
	}
	logr.FromContextOrDiscard(ctx).Info("no broker for a federated identity", "reason", name, "message", message)
	return again, c.write(ctx, id, metav1.Condition{Type: v1.ConditionBroker, Status: metav1.ConditionFalse, Reason: name, Message: message})
}

// write patches the condition. The optimistic lock protects conditions that other clients write at
// the same time, because a merge patch replaces the whole list.
func (c *Controller) write(ctx context.Context, id *v1.AzureIdentity, want metav1.Condition) error {
	changed := id.DeepCopy()
	want.ObservedGeneration = id.Generation
	meta.SetStatusCondition(&changed.Status.Conditions, want)
	err := c.client.Status().Patch(ctx, changed, client.MergeFromWithOptions(id, client.MergeFromWithOptimisticLock{}))
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil // deleted, or an older CRD or role: the Event reports the problem as well
	}
	return fmt.Errorf("write condition of identity %s/%s: %w", id.Namespace, id.Name, err)
}
