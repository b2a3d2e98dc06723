// Package assignedidentity keeps the AzureAssignedIdentity objects of every pod in step with what
// the bindings grant.
//
// The queue's key is the pod, and no other controller writes the spec of these objects. They are
// written as soon as the pod has a node, and removed as soon as the pod is gone or finished.
// Neither waits for Azure. If the node group already has the identity, the object is Assigned from
// the start. In a burst of pods most objects are written only then: see postpone.go.
package assignedidentity

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/events"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// workers is how many pods are reconciled at once. A pod costs one or two writes of some 5 to 20 ms
// each, and one node group must not occupy all workers.
const workers = 64

// retryFirst is the first pause after an error of the API server.
const retryFirst = 10 * time.Millisecond

// Placement knows which identities node groups have. It is implemented by attachment.Groups.
type Placement interface {
	// Place replaces what a pod needs from a group, and returns the progress of each identity. The
	// pod is queued again when that changes.
	Place(pod types.NamespacedName, group compute.Group, needs []assignment.Need) []assignment.Progress
	// Leave withdraws everything that a pod needed.
	Leave(pod types.NamespacedName)
	// CaughtUp signals that every pod that existed at startup has been placed.
	CaughtUp()
}

// Metrics is what this controller measures. It is implemented by observe.Metrics.
type Metrics interface {
	AssignedIdentityAdded(took time.Duration)
	AssignedIdentityUpdated(took time.Duration)
	AssignedIdentityDeleted(took time.Duration)
}

// Rules provides the rules for decisions.
type Rules interface {
	// Wait blocks until the rules are known.
	Wait(ctx context.Context) error
	Current() identity.Rules
	Pod(pod *corev1.Pod) identity.Pod
}

// Parts are the dependencies of a Controller.
type Parts struct {
	Client    client.Client
	Rules     Rules
	Placement Placement
	Events    *events.Events
	Metrics   Metrics
	// Queue gets the pods that something other than a watch concerns.
	Queue *wakeup.Objects
}

// Controller reconciles the assigned identities of pods.
type Controller struct {
	client    client.Client
	rules     Rules
	placement Placement
	events    *events.Events
	metrics   Metrics
	queue     *wakeup.Objects

	backlog  backlog
	writers  writers
	progress *rate.Limiter
	waiting  waiting
}

// NewController returns a Controller. It writes at most writes objects of one node group at a time.
func NewController(parts Parts, writes int) *Controller {
	return &Controller{
		client: parts.Client, rules: parts.Rules, placement: parts.Placement, events: parts.Events,
		metrics: parts.Metrics, queue: parts.Queue, writers: newWriters(writes, parts.Queue.Add),
		progress: rate.NewLimiter(progressPerSecond, progressBurst), waiting: waiting{since: map[types.NamespacedName]time.Time{}},
	}
}

// Reconcile brings the assigned identities of one pod up to date. The pod need not exist.
func (c *Controller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if err := c.rules.Wait(ctx); err != nil {
		return reconcile.Result{}, err
	}
	began := time.Now()
	defer c.writers.seen(req.NamespacedName)
	t, err := c.target(ctx, req.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	plan := assignment.ForPod(t.in)
	c.backlog.placed(req.NamespacedName, c.placement.CaughtUp)
	t.since = c.waiting.note(req.NamespacedName, t.unassigned(), began)
	result, err := c.write(ctx, req, t, plan, began)
	if t.hold > 0 && (result.RequeueAfter == 0 || result.RequeueAfter > t.hold) {
		result.RequeueAfter = t.hold
	}
	return result, err
}

// Register adds the controller to a manager.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	if err := mgr.Add(manager.RunnableFunc(c.catchUp)); err != nil {
		return fmt.Errorf("list the pods at startup: %w", err)
	}
	return builder.ControllerManagedBy(mgr).
		Named("assignedidentity").
		Watches(&corev1.Pod{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(podChanged())).
		Watches(&v1.AzureAssignedIdentity{}, handler.EnqueueRequestsFromMapFunc(podOf), builder.WithPredicates(assignedChanged())).
		Watches(&v1.AzureIdentityBinding{}, handler.EnqueueRequestsFromMapFunc(c.podsOfBinding), builder.WithPredicates(written())).
		Watches(&v1.AzureIdentity{}, handler.EnqueueRequestsFromMapFunc(c.podsOfIdentity), builder.WithPredicates(written())).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(c.podsOfNode), builder.WithPredicates(nodeChanged())).
		WatchesRawSource(source.Func(c.queue.Source)).
		WithOptions(wakeup.Options[reconcile.Request](workers, retryFirst)).
		Complete(c)
}

// catchUp lists the pods that exist at startup. It runs only on the leader.
func (c *Controller) catchUp(ctx context.Context) error {
	var pods corev1.PodList
	if err := c.client.List(ctx, &pods, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	names := make([]types.NamespacedName, 0, len(pods.Items))
	for i := range pods.Items {
		names = append(names, client.ObjectKeyFromObject(&pods.Items[i]))
	}
	c.backlog.begin(names, c.placement.CaughtUp, c.queue.Add)
	return nil
}

// write carries out the part of a plan that is to be written now.
func (c *Controller) write(ctx context.Context, req reconcile.Request, t *target, plan assignment.PodPlan, began time.Time) (reconcile.Result, error) {
	if plan.Empty() {
		return reconcile.Result{}, nil
	}
	plan, later := c.postpone(plan)
	if plan.Empty() {
		return reconcile.Result{RequeueAfter: later}, nil
	}
	if !c.writers.enter(t.group, req.NamespacedName) {
		return reconcile.Result{}, nil // queued again when another pod of the group is done
	}
	defer c.writers.leave(t.group)
	behind, err := c.carryOut(ctx, t, plan, began)
	if behind {
		later = catchUp
	}
	return reconcile.Result{RequeueAfter: later}, err
}

// target is the input of a plan.
type target struct {
	pod   *corev1.Pod // nil when there is none
	group compute.Group
	in    assignment.Pod
	since time.Time     // since when the pod has been without an identity
	hold  time.Duration // when to check unreported refusals again; 0 if there are none
}

// unassigned reports whether the pod lacks an identity that it is granted.
func (t *target) unassigned() bool {
	for _, grant := range t.in.Grants {
		if grant.Identity.Spec.Type == v1.UserAssignedMSI && t.in.Progress(grant.Identity).Status != v1.StateAssigned {
			return true
		}
	}
	return false
}

// target reads the caches and places the pod.
func (c *Controller) target(ctx context.Context, name types.NamespacedName) (*target, error) {
	observed, err := lookup.Assigned(ctx, c.client, name)
	if err != nil {
		return nil, err
	}
	pod, err := c.pod(ctx, name)
	if err != nil {
		return nil, err
	}
	t := &target{pod: pod, in: assignment.Pod{
		Namespace: name.Namespace, Name: name.Name, Observed: observed, Rules: c.rules.Current(),
		Now:   metav1.NewTime(time.Now().Truncate(time.Second)),
		Taken: func(namespace, object string) bool { return c.taken(ctx, name, namespace, object) },
	}}
	var node *corev1.Node
	if needy(pod) {
		if node, err = c.node(ctx, pod.Spec.NodeName); err != nil {
			return nil, err
		}
	}
	switch {
	case !living(pod):
		c.events.ForgetPod(name.Namespace, name.Name)
	case pod.Spec.HostNetwork:
		c.events.PodOnHostNetwork(pod)
	}
	if node == nil {
		c.placement.Leave(name)
		return t, nil
	}
	t.in.NodeName = node.Name
	if t.in.Grants, t.hold, err = c.grants(ctx, pod); err != nil {
		return nil, err
	}
	t.in.Progress = c.place(t, name, node)
	return t, nil
}

// living reports whether the pod exists and may still run. A pod that is being deleted needs its
// identities until it has stopped.
func living(pod *corev1.Pod) bool {
	return pod != nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// needy reports whether the pod needs assigned identities: it is living, has a node, and does not
// use the host network.
func needy(pod *corev1.Pod) bool {
	return living(pod) && pod.Spec.NodeName != "" && !pod.Spec.HostNetwork
}

// grants returns what the rules grant to the pod, and emits Events about what they refuse. While a
// refusal may only be premature, it emits none and returns how long to wait.
func (c *Controller) grants(ctx context.Context, pod *corev1.Pod) ([]identity.Grant, time.Duration, error) {
	rules := c.rules.Current()
	var options []client.ListOption
	if rules.ForceNamespaced {
		options = append(options, client.InNamespace(pod.Namespace)) // other namespaces' bindings grant nothing
	}
	bindings, err := lookup.Bindings(ctx, c.client, pod.Labels[v1.BindingLabel], options...)
	if err != nil {
		return nil, 0, err
	}
	grants, refusals, err := lookup.Grants(ctx, c.client, rules, c.rules.Pod(pod), bindings)
	if err != nil {
		return nil, 0, err
	}
	refusals = worthTelling(refusals)
	hold := tooEarly(pod, refusals, time.Now())
	if hold == 0 {
		c.events.PodRefused(pod, refusals)
	}
	return grants, hold, nil
}

// place records what the pod needs from its node group, and returns the progress of each identity.
func (c *Controller) place(t *target, name types.NamespacedName, node *corev1.Node) func(*v1.AzureIdentity) assignment.Progress {
	group, err := compute.ParseProviderID(node.Spec.ProviderID)
	if err != nil {
		c.placement.Leave(name)
		said := assignment.Progress{State: assignment.Refused(reason.NodeNotOnAzure, fmt.Sprintf("node %s: %v", node.Name, err))}
		return func(*v1.AzureIdentity) assignment.Progress { return said }
	}
	t.group = group
	var needs []assignment.Need
	var of []*v1.AzureIdentity
	for _, grant := range t.in.Grants {
		if grant.Identity.Spec.Type != v1.UserAssignedMSI {
			continue
		}
		// The rules grant no identity whose resource ID cannot be parsed.
		if id, err := identity.ParseResourceID(grant.Identity.Spec.ResourceID); err == nil {
			of = append(of, grant.Identity)
			needs = append(needs, assignment.Need{
				ID: id, ClientID: grant.Identity.Spec.ClientID, Identity: client.ObjectKeyFromObject(grant.Identity),
				Named: grant.Named, Assigned: t.in.SaysAssigned(grant),
			})
		}
	}
	if len(needs) == 0 {
		c.placement.Leave(name)
	}
	progress := map[*v1.AzureIdentity]assignment.Progress{}
	if len(needs) > 0 {
		for i, p := range c.placement.Place(name, group, needs) {
			progress[of[i]] = p
		}
		c.complain(t.pod, of, progress)
	}
	return func(id *v1.AzureIdentity) assignment.Progress { return progress[id] }
}

// complain emits an Event on the pod about a recurring failure of one of its identities. Progress
// of the other identities does not clear it.
func (c *Controller) complain(pod *corev1.Pod, of []*v1.AzureIdentity, progress map[*v1.AzureIdentity]assignment.Progress) {
	for _, id := range of {
		if complaint := progress[id].Complaint; complaint != "" {
			c.events.PodComplaint(pod, id, complaint)
			return
		}
	}
	c.events.PodComplaint(pod, of[0], "")
}
