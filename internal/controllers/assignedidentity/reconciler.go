// Package assignedidentity keeps the AzureAssignedIdentity objects of every pod
// in step with what the bindings grant it.
//
// The queue's key is the pod. Objects are written as soon as the pod has a node,
// and removed as soon as the pod is gone or finished; neither waits for Azure.
// Where the node group has the identity already the object says Assigned from
// the start.
package assignedidentity

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/announce"
	"github.com/podid-io/podid/internal/identity"
)

// Placement tells what node groups have; attachment.Groups is one.
type Placement interface {
	// Claim says that a pod needs an identity on a group, and tells whether
	// the group has it and keeps it.
	Claim(group compute.Group, pod types.NamespacedName, id identity.ResourceID) bool
}

// Metrics is what this controller measures; observe.Metrics has it.
type Metrics interface {
	AssignedIdentityAdded(took time.Duration)
	AssignedIdentityUpdated(took time.Duration)
	AssignedIdentityDeleted(took time.Duration)
}

// The indexes that the caches must have.
const (
	// BindingsBySelector indexes bindings by spec.selector.
	BindingsBySelector = "podid/selector"
	// BindingsByIdentity indexes bindings by spec.azureIdentity.
	BindingsByIdentity = "podid/identity"
	// PodsBySelector indexes pods by the value of their binding label.
	PodsBySelector = "podid/binding-label"
	// PodsByNode indexes pods by the node they run on.
	PodsByNode = "podid/pod-node"
	// AssignedByPod indexes assigned identities by <pod's namespace>/<pod>.
	AssignedByPod = "podid/pod"
	// AssignedByNode indexes assigned identities by their node's name.
	AssignedByNode = "podid/node-name"
)

// Parts are what a Reconciler works with.
type Parts struct {
	Client    client.Client
	Placement Placement
	Events    *announce.Events
	Metrics   Metrics
	Now       func() time.Time
}

// Reconciler reconciles the assigned identities of pods.
type Reconciler struct {
	client    client.Client
	placement Placement
	events    *announce.Events
	metrics   Metrics
	now       func() time.Time
	rules     identity.Rules
	queue     queue
}

// New returns a Reconciler.
func New(parts Parts, rules identity.Rules) *Reconciler {
	return &Reconciler{
		client: parts.Client, placement: parts.Placement, events: parts.Events,
		metrics: parts.Metrics, now: parts.Now, rules: rules,
	}
}

// Reconcile makes the assigned identities of one pod what they should be. The
// pod need not exist.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	began := r.now()
	observed, err := r.observed(ctx, req.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	pod, err := r.pod(ctx, req.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	var node *corev1.Node
	if needy(pod) {
		if node, err = r.node(ctx, pod.Spec.NodeName); err != nil {
			return reconcile.Result{}, err
		}
	}
	in := assignment.Pod{Namespace: req.Namespace, Name: req.Name, Observed: observed, Rules: r.rules}
	if node != nil {
		in.NodeName = node.Name
		if in.Grants, err = r.grants(ctx, pod); err != nil {
			return reconcile.Result{}, err
		}
	}
	switch {
	case !living(pod):
		r.events.ForgetPod(req.Namespace, req.Name)
	case pod.Spec.HostNetwork:
		r.events.PodOnHostNetwork(pod)
	}
	in.State = func(id *v1.AzureIdentity) assignment.State { return r.state(req.NamespacedName, node, id) }
	in.Taken = func(namespace, name string) bool { return r.taken(ctx, req.NamespacedName, namespace, name) }
	return reconcile.Result{}, r.carryOut(ctx, pod, assignment.ForPod(in), began)
}

// living tells whether the pod exists and may still run: one that is being
// deleted needs its identities until it has stopped.
func living(pod *corev1.Pod) bool {
	return pod != nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// needy tells whether identities have to be assigned for the pod: it lives, has
// a node, and an address of its own.
func needy(pod *corev1.Pod) bool {
	return living(pod) && pod.Spec.NodeName != "" && !pod.Spec.HostNetwork
}

// grants asks the rules, and tells the pod what they refuse.
func (r *Reconciler) grants(ctx context.Context, pod *corev1.Pod) ([]identity.Grant, error) {
	selector := pod.Labels[v1.BindingLabel]
	var list v1.AzureIdentityBindingList
	if err := r.client.List(ctx, &list, client.MatchingFields{BindingsBySelector: selector}); err != nil {
		return nil, fmt.Errorf("list bindings with selector %q: %w", selector, err)
	}
	bindings := make([]*v1.AzureIdentityBinding, 0, len(list.Items))
	for i := range list.Items {
		bindings = append(bindings, &list.Items[i])
	}
	var failed error
	grants, refusals := r.rules.Grants(
		identity.Pod{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels}, bindings,
		func(namespace, name string) *v1.AzureIdentity {
			var id v1.AzureIdentity
			err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &id)
			if err != nil {
				if !apierrors.IsNotFound(err) {
					failed = fmt.Errorf("read identity %s/%s: %w", namespace, name, err)
				}
				return nil
			}
			return &id
		})
	if failed != nil {
		// Without an answer nothing may be taken away either.
		return nil, failed
	}
	r.events.PodRefused(pod, worthTelling(refusals))
	return grants, nil
}

// worthTelling leaves out what is no mistake: a pod whose binding has not come
// yet. A binding of another namespace is not this pod's business either, when it
// only happens to use the same selector; in a namespaced cluster that is common.
func worthTelling(refusals []*identity.Refusal) []*identity.Refusal {
	var out []*identity.Refusal
	for _, refusal := range refusals {
		switch refusal.Reason {
		case identity.NoLabel, identity.NoBinding, identity.OtherNamespace, identity.NoMatch:
		case identity.IdentityMissing, identity.IdentityBroken, identity.NamespacedIdentity:
			out = append(out, refusal)
		}
	}
	return out
}

// state is how far an identity has come on its way to the pod's node.
func (r *Reconciler) state(pod types.NamespacedName, node *corev1.Node, id *v1.AzureIdentity) assignment.State {
	group, err := compute.ParseProviderID(node.Spec.ProviderID)
	if err != nil {
		return assignment.State{
			Status: v1.StateCreated, Reason: assignment.ReasonNodeNotOnAzure,
			Message: fmt.Sprintf("node %s: %v", node.Name, err),
		}
	}
	resourceID, err := identity.ParseResourceID(id.Spec.ResourceID)
	if err == nil && r.placement.Claim(group, pod, resourceID) {
		return assignment.State{Status: v1.StateAssigned}
	}
	return assignment.State{Status: v1.StateCreated}
}

// observed returns the pod's assigned identities.
func (r *Reconciler) observed(ctx context.Context, pod types.NamespacedName) ([]*v1.AzureAssignedIdentity, error) {
	var list v1.AzureAssignedIdentityList
	if err := r.client.List(ctx, &list, client.MatchingFields{AssignedByPod: pod.String()}); err != nil {
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
	err := r.client.Get(ctx, name, &pod)
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
	err := r.client.Get(ctx, client.ObjectKey{Name: name}, &node)
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
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &other); err != nil {
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
