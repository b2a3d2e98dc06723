// Package bindingcheck emits an Event on a binding that names a missing or unusable identity. The
// binding's author then learns about it before a pod fails to get a token.
package bindingcheck

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/events"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// minAge is the minimum age of a binding before a missing identity is reported. One kubectl apply
// creates the objects one after another.
const minAge = 2 * time.Second

// Rules provides the rules for decisions.
type Rules interface {
	// Wait blocks until the rules are known.
	Wait(ctx context.Context) error
	Current() identity.Rules
	NamespaceLabels(namespace string) map[string]string
}

// Controller checks bindings.
type Controller struct {
	client client.Client
	rules  Rules
	events *events.Events
	queue  *wakeup.Objects
}

// NewController returns a Controller. queue gets the bindings that a change of the rules concerns.
func NewController(client client.Client, rules Rules, events *events.Events, queue *wakeup.Objects) *Controller {
	return &Controller{client: client, rules: rules, events: events, queue: queue}
}

// Reconcile checks one binding.
func (c *Controller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if err := c.rules.Wait(ctx); err != nil {
		return reconcile.Result{}, err
	}
	var binding v1.AzureIdentityBinding
	err := c.client.Get(ctx, req.NamespacedName, &binding)
	if apierrors.IsNotFound(err) {
		c.events.ForgetBinding(req.Namespace, req.Name)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("read binding %s: %w", req.NamespacedName, err)
	}
	refusal, enforced, err := c.check(ctx, &binding)
	switch {
	case err != nil:
		return reconcile.Result{}, err
	case refusal == nil:
		c.events.BindingRefused(&binding, nil)
	case !enforced:
		c.events.BindingWarned(&binding, refusal)
	case (refusal.Reason == reason.IdentityMissing || refusal.Reason == reason.NotShared) && time.Since(binding.CreationTimestamp.Time) < minAge:
		return reconcile.Result{RequeueAfter: minAge}, nil
	default:
		c.events.BindingRefused(&binding, refusal)
	}
	return reconcile.Result{}, nil
}

// Register adds the controller to a manager.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	return builder.ControllerManagedBy(mgr).
		Named("bindingcheck").
		For(&v1.AzureIdentityBinding{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1.AzureIdentity{}, handler.EnqueueRequestsFromMapFunc(c.bindingsOf),
			builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		WatchesRawSource(source.Func(c.queue.Source)).
		WithOptions(controller.Options{NewQueue: wakeup.NewWorkQueue[reconcile.Request]}).
		Complete(c)
}

// check evaluates the rules for a pod in the binding's own namespace that carries its selector.
// enforced is false for refusals that the policy only warns about.
func (c *Controller) check(ctx context.Context, binding *v1.AzureIdentityBinding) (refusal *reason.Refusal, enforced bool, err error) {
	if binding.Spec.Selector == "" {
		return reason.NoSelector.Refuse("the binding has no selector and selects no pod: set spec.selector to the value of the pods' label %s",
			v1.BindingLabel), true, nil
	}
	rules := c.rules.Current()
	pod := identity.Pod{
		Namespace: binding.Namespace, Labels: map[string]string{v1.BindingLabel: binding.Spec.Selector},
		NamespaceLabels: c.rules.NamespaceLabels(binding.Namespace),
	}
	grants, refusals, err := lookup.Grants(ctx, c.client, rules, pod, []*v1.AzureIdentityBinding{binding})
	if err != nil {
		return nil, false, err
	}
	refusal, enforced = verdict(rules.Policy, pod, grants, refusals)
	return refusal, enforced, nil
}

// verdict returns what to report about a binding, or nil. A policy rule may be limited to
// ServiceAccounts: if it allows any pod of the namespace, the binding is not at fault.
func verdict(policy *identity.Policy, pod identity.Pod, grants []identity.Grant, refusals []*reason.Refusal) (refusal *reason.Refusal, enforced bool) {
	if len(grants) > 0 {
		if warning := grants[0].Warning; warning != nil && !policy.AllowsInNamespace(warning.Identity, pod.NamespaceLabels) {
			return warning, false
		}
		return nil, false
	}
	if len(refusals) == 0 || refusals[0].Reason == reason.NoBinding ||
		refusals[0].Reason == reason.UseForbidden && policy.AllowsInNamespace(refusals[0].Identity, pod.NamespaceLabels) {
		return nil, false
	}
	return refusals[0], true
}

// bindingsOf returns requests for the bindings that name an identity, or one shared from it.
func (c *Controller) bindingsOf(ctx context.Context, o client.Object) []reconcile.Request {
	return lookup.Requests(lookup.BindingsOfIdentity(ctx, c.client, o))
}
