// Package readiness reports in a condition of a pod's status whether its identities are on its
// node.
//
// A pod that names aadpodidentity.k8s.io/assigned in its readinessGates is ready only when that
// condition is True. Services then send it no traffic that it could not serve without a token.
// Other pods get the condition only when one of their identities is refused, so that the reason is
// visible on the pod itself.
package readiness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/identity"
)

// minAge is the minimum age of a pod before it is reported as waiting. Usually its identity is
// assigned a moment later, and a single write is enough.
const minAge = 2 * time.Second

const (
	// workers is how many conditions are written at once.
	workers    = 8
	retryFirst = 50 * time.Millisecond
)

// Rules provides the rules for decisions.
type Rules interface {
	// Wait blocks until the rules are known.
	Wait(ctx context.Context) error
	Current() identity.Rules
	Pod(pod *corev1.Pod) identity.Pod
}

// Controller maintains the condition of pods.
type Controller struct {
	client client.Client
	live   client.Reader
	rules  Rules
}

// NewController returns a Controller. live reads from the API server, because the cache has no pods
// without the label.
func NewController(client client.Client, live client.Reader, rules Rules) *Controller {
	return &Controller{client: client, live: live, rules: rules}
}

// Reconcile brings one pod's condition up to date.
func (c *Controller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if err := c.rules.Wait(ctx); err != nil {
		return reconcile.Result{}, err
	}
	pod, err := c.pod(ctx, req.NamespacedName)
	if err != nil || pod == nil {
		return reconcile.Result{}, err
	}
	view, err := c.view(ctx, pod)
	if err != nil {
		return reconcile.Result{}, err
	}
	verdict, speak := Decide(view)
	if !speak || verdict.Says(view.Have) {
		return reconcile.Result{}, nil
	}
	if wait := minAge - time.Since(pod.CreationTimestamp.Time); verdict.Passing && view.Have == nil && wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	return reconcile.Result{}, c.write(ctx, pod, view.Have, verdict)
}

// Register adds the controller to a manager.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	return builder.ControllerManagedBy(mgr).
		Named("readiness").
		Watches(&corev1.Pod{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(podChanged())).
		Watches(&v1.AzureAssignedIdentity{}, c.onAssigned()).
		Watches(&v1.AzureIdentityBinding{}, handler.EnqueueRequestsFromMapFunc(c.podsOfBinding),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1.AzureIdentity{}, handler.EnqueueRequestsFromMapFunc(c.podsOfIdentity),
			builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		WithOptions(wakeup.Options[reconcile.Request](workers, retryFirst)).
		Complete(c)
}

// pod returns a pod, or nil if its condition no longer matters.
func (c *Controller) pod(ctx context.Context, name types.NamespacedName) (*corev1.Pod, error) {
	var pod corev1.Pod
	err := c.client.Get(ctx, name, &pod)
	if apierrors.IsNotFound(err) {
		// The pod is usually gone. If it only lost its label, it still exists and its condition is
		// outdated.
		err = c.live.Get(ctx, name, &pod)
	}
	if apierrors.IsNotFound(err) || err == nil && !living(&pod) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pod %s: %w", name, err)
	}
	return &pod, nil
}

// Concerned reports whether the condition of a pod is maintained regardless of its assigned
// identities: the pod names the gate, or has the condition.
func Concerned(pod *corev1.Pod) bool { return gated(pod) || condition(pod) != nil }

// living reports whether the pod's condition still matters.
func living(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp.IsZero() && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

func gated(pod *corev1.Pod) bool {
	for _, gate := range pod.Spec.ReadinessGates {
		if gate.ConditionType == v1.PodConditionAssigned {
			return true
		}
	}
	return false
}

func condition(pod *corev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == v1.PodConditionAssigned {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// view collects the facts about a pod. The result belongs to the cache and must not be changed.
func (c *Controller) view(ctx context.Context, pod *corev1.Pod) (Pod, error) {
	view := Pod{Gated: gated(pod), Have: condition(pod), NodeName: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork}
	var err error
	if view.Assigned, err = lookup.Assigned(ctx, c.client, client.ObjectKeyFromObject(pod)); err != nil {
		return view, err
	}
	bindings, err := lookup.Bindings(ctx, c.client, pod.Labels[v1.BindingLabel])
	if err != nil {
		return view, err
	}
	view.Grants, view.Refusals, err = lookup.Grants(ctx, c.client, c.rules.Current(), c.rules.Pod(pod), bindings)
	return view, err
}

// write patches podid's condition and leaves all others alone. The UID protects a new pod of the
// same name.
func (c *Controller) write(ctx context.Context, pod *corev1.Pod, have *corev1.PodCondition, verdict Verdict) error {
	patch, err := conditionPatch(pod.UID, have, verdict, time.Now())
	if err != nil {
		return err
	}
	target := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	err = c.client.Status().Patch(ctx, target, client.RawPatch(types.StrategicMergePatchType, patch))
	switch {
	case err == nil:
		logr.FromContextOrDiscard(ctx).V(1).Info("pod condition written", "status", verdict.Status, "reason", verdict.Reason)
		return nil
	case apierrors.IsNotFound(err), anotherPod(err):
		return nil // the pod is gone or was replaced, and its own event reports that
	case apierrors.IsForbidden(err):
		return reconcile.TerminalError(fmt.Errorf("write condition of pod %s/%s: %w: "+
			"mic needs the right to patch pods/status, which the chart's ClusterRole grants", pod.Namespace, pod.Name, err))
	}
	return fmt.Errorf("write condition of pod %s/%s: %w", pod.Namespace, pod.Name, err)
}

// anotherPod reports whether the patch was rejected because the pod has another UID.
func anotherPod(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Field == "metadata.uid" })
}

// conditionPatch returns a strategic merge patch: the API server finds the condition by its type.
func conditionPatch(uid types.UID, have *corev1.PodCondition, verdict Verdict, now time.Time) ([]byte, error) {
	type condition struct {
		Type               corev1.PodConditionType `json:"type"`
		Status             corev1.ConditionStatus  `json:"status"`
		Reason             string                  `json:"reason"`
		Message            string                  `json:"message"`
		LastTransitionTime metav1.Time             `json:"lastTransitionTime"`
	}
	since := metav1.NewTime(now)
	if have != nil && have.Status == verdict.Status {
		since = have.LastTransitionTime
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": uid},
		"status": map[string]any{"conditions": []condition{{
			Type: v1.PodConditionAssigned, Status: verdict.Status, Reason: verdict.Reason, Message: verdict.Message, LastTransitionTime: since,
		}}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode pod condition: %w", err)
	}
	return patch, nil
}
