// Package attachment makes the identities of every node group (a VM or a scale set) on Azure what
// the pods on it need, and notifies the pods' controller when they are there.
//
// The queue's key is the node group, so there is one update in flight per group, and groups are
// updated concurrently. What comes up during an update goes into the next one. Coalescing is what
// counts: a scale set takes 40 to 60 s per update, and accepts four updates a minute.
//
// A pass over a group: reconciler.go reads Azure and plans; capacity.go and ledger_sync.go record
// the plan; apply.go, requests.go and narrow.go carry it out. groups.go is shared with the pod
// controller. state.go is the memory of one group, made of demand.go, azure_view.go,
// group_ledger.go and trouble.go.
package attachment

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/ledger"
)

// Cloud is what this controller needs of Azure; compute.Client has it.
type Cloud interface {
	// Get returns what a group has.
	Get(ctx context.Context, group compute.Group) (compute.Identities, error)
	// Patch attaches and detaches in one update, and returns when Azure is done.
	Patch(ctx context.Context, group compute.Group, attach, detach []string) error
	// Pause returns how long Azure is to be left alone about a group, 0 for not. since is when the
	// oldest need came that no update has included.
	Pause(group compute.Group, since time.Time) time.Duration
	// ClientID returns the client ID that an identity has now.
	ClientID(ctx context.Context, resourceID string) (string, error)
}

// Metrics is what this controller measures; observe.Metrics has it.
type Metrics interface {
	Cycle(took time.Duration)
	AttachmentBegan(identities int)
	AttachmentEnded()
	Quarantined(namespace, identity, reason string)
	QuarantineLifted(namespace, identity string)
}

// Settings are what an operator can choose.
type Settings struct {
	// Grace is how long an identity stays that no pod needs.
	Grace time.Duration
	// RetryInterval is the first pause after a failed update; it doubles up to a minute.
	RetryInterval time.Duration
	// Immutable are identities never to detach: client IDs or resource IDs.
	Immutable []string
	// AllowClusterIdentities lets pods have the cluster's own identities. Without it they are
	// refused: ClusterIdentities (client IDs), and those of kubelets by their nodes' label.
	AllowClusterIdentities bool
	ClusterIdentities      map[string]bool
	// MayPreassign reports whether the AzureIdentity objects of a namespace may be pre-assigned;
	// nil means that all may.
	MayPreassign func(namespace string) bool
}

// Events notifies the owners of AzureIdentity objects; events.Events implements it.
type Events interface {
	// PreassignmentRefused reports why the annotation has no effect, once per change; "" withdraws
	// that.
	PreassignmentRefused(id *v1.AzureIdentity, why string)
}

// The bounds of calls to Azure. A scale set's update usually takes a minute. One of 16 minutes has
// been reported, but blocking a group for that long helps no pod.
const (
	readTimeout  = 30 * time.Second
	patchTimeout = 5 * time.Minute
	// saveTimeout bounds writing the ledger after an update.
	saveTimeout = 15 * time.Second
	// nextPass is the pause before the next pass if a pass left work.
	nextPass = time.Millisecond
	// pollInterval is the pause between two reads of another writer's update that attaches an
	// identity which pods wait for.
	pollInterval = 2 * time.Second
)

// Parts are the dependencies of a Controller.
type Parts struct {
	Client  client.Client
	Cloud   Cloud
	Ledger  ledger.Store
	Groups  *Groups
	Events  Events
	Metrics Metrics
}

// workers is how many groups may have an update in flight. ARM grants a subscription ten writes a
// second in the long run, and a VM takes 10 to 20 s, so more than some 150 would only wait.
const workers = 150

// retryFirst is the first pause after an error of the API server. Because each pass reads Azure
// again, the library's 5 ms would use up what Azure allows while the API server is down.
const retryFirst = 250 * time.Millisecond

// Controller reconciles node groups.
type Controller struct {
	client    client.Client
	cloud     Cloud
	ledger    ledger.Snapshot
	groups    *Groups
	events    Events
	metrics   Metrics
	settings  Settings
	immutable map[string]bool
	health    health
}

// NewController returns a Controller.
func NewController(parts Parts, settings Settings) *Controller {
	c := &Controller{
		client: parts.Client, cloud: parts.Cloud, ledger: ledger.Snapshot{Store: parts.Ledger}, groups: parts.Groups,
		events: parts.Events, metrics: parts.Metrics, settings: settings, immutable: map[string]bool{},
	}
	for _, id := range settings.Immutable {
		if id = ascii.Loose(ledger.Key(id)); id != "" {
			c.immutable[id] = true
		}
	}
	return c
}

// Reconcile makes one pass over a group. Failures of Azure are not returned as errors: they set the
// time of the next pass. Errors are those of the API server.
func (c *Controller) Reconcile(ctx context.Context, group compute.Group) (reconcile.Result, error) {
	st := c.groups.of(group)
	if pause := st.backOffLeft(c.groups.now()); pause > 0 {
		return reconcile.Result{RequeueAfter: pause}, nil
	}
	populated, err := c.populated(ctx, group)
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := c.load(ctx, group, st); err != nil {
		return reconcile.Result{}, err
	}
	if !populated && st.idle() {
		return reconcile.Result{}, c.forget(ctx, group, st)
	}
	if !st.known() && c.canWait(group, st) {
		return reconcile.Result{}, nil
	}
	p := &pass{group: group, state: st, populated: populated, extra: c.groups.preassignedTo(group)}
	c.reportLeftOut(ctx, p)
	if !populated {
		st.retainOwned(p.extra.set) // a scale set without nodes keeps what it has, but gets no more
	}
	return c.reconcile(ctx, p)
}

// Register adds the controller to a manager. Pods wake it through Groups.Place.
func (c *Controller) Register(_ context.Context, mgr manager.Manager) error {
	log := mgr.GetLogger().WithValues("controller", "attachment")
	return builder.TypedControllerManagedBy[compute.Group](mgr).
		Named("attachment").
		Watches(&corev1.Node{}, onNode()).
		Watches(&v1.AzureIdentity{}, c.onIdentity()).
		WatchesRawSource(source.TypedFunc[compute.Group](c.groups.wake.Source)).
		WithOptions(wakeup.Options[compute.Group](workers, retryFirst)). // first: it replaces all options
		WithLogConstructor(func(group *compute.Group) logr.Logger {
			if group == nil {
				return log
			}
			return log.WithValues("nodeGroup", group.String())
		}).
		Complete(c)
}

// pass is one pass over a group.
type pass struct {
	group compute.Group
	state *state
	// populated is whether the group has nodes in the cluster.
	populated bool
	// extra are identities that the group is to have without any pod.
	extra preassignedSet
	// fresh is whether Azure has been read in this pass.
	fresh bool
}

// reconcile reads Azure if necessary, and then plans.
func (c *Controller) reconcile(ctx context.Context, p *pass) (reconcile.Result, error) {
	if !p.state.known() {
		if pause := c.cloud.Pause(p.group, p.state.waitingSince()); pause > 0 {
			return reconcile.Result{RequeueAfter: pause}, nil
		}
		if err := c.read(ctx, p); err != nil {
			return c.backOff(ctx, p, err)
		}
	}
	if !c.groups.isCaughtUp() {
		return reconcile.Result{}, nil // what is attached already serves the pods placed so far
	}
	return c.plan(ctx, p)
}

// forget drops a group that has no nodes, needs or ledger entries. It writes the ledger first: the
// outcome of the last update may not be stored yet, and an entry too many would make an identity
// podid's that another writer attaches.
func (c *Controller) forget(ctx context.Context, group compute.Group, st *state) error {
	if err := c.write(ctx, group, st); err != nil {
		return err
	}
	c.lifted(c.groups.drop(group))
	return nil
}

// canWait reports whether reading a group can be left to the drift comparison: until all pods are
// placed, reading a thousand VMs that no pod needs would delay those that are needed.
func (c *Controller) canWait(group compute.Group, st *state) bool {
	return group.Kind == compute.VM && st.idle() && !c.groups.isCaughtUp()
}

// plan plans and carries out an update. Azure and the ledger have been read.
func (c *Controller) plan(ctx context.Context, p *pass) (reconcile.Result, error) {
	st := p.state
	plan := st.plan(p.extra, c.immutable, c.settings.Grace, c.groups.now())
	defer c.cancelDetach(st)
	if !plan.Idle() {
		if delay := max(st.updateDelay(c.groups.now()), c.cloud.Pause(p.group, st.waitingSince())); delay > 0 {
			return reconcile.Result{RequeueAfter: delay}, nil
		}
	}
	if !p.fresh && (len(plan.Detach) > 0 || len(st.unrecorded(plan.Attach, plan.Probation)) > 0) {
		// Read Azure again. Another writer may have attached what is about to be recorded as
		// podid's. And only Azure has the client ID of what is about to be detached, which may be
		// on the list of immutable identities.
		st.cancelDetach() // read notifies
		if err := c.read(ctx, p); err != nil {
			return c.backOff(ctx, p, err)
		}
		plan = st.plan(p.extra, c.immutable, c.settings.Grace, c.groups.now())
	}
	return c.carryOut(ctx, p, plan)
}

// carryOut records a plan in the ledger, and then updates the group.
func (c *Controller) carryOut(ctx context.Context, p *pass, plan assignment.GroupPlan) (reconcile.Result, error) {
	plan, refused := c.admit(ctx, p, plan)
	if err := c.record(ctx, p.group, p.state, plan); err != nil {
		if c.refusePage(ctx, p, plan, err) {
			return reconcile.Result{RequeueAfter: nextPass}, nil
		}
		return reconcile.Result{}, err
	}
	switch {
	case !plan.Idle():
		return c.update(ctx, p, plan)
	case refused:
		return reconcile.Result{RequeueAfter: nextPass}, nil // there may be room now for what this plan left out
	}
	c.lifted(p.state.settle(p.extra.set, c.groups.now()))
	return c.next(p.state, plan), nil
}

// update carries out a plan on Azure.
func (c *Controller) update(ctx context.Context, p *pass, plan assignment.GroupPlan) (reconcile.Result, error) {
	began := c.groups.now()
	p.state.beginUpdate()
	err := c.apply(ctx, p, plan)
	c.metrics.Cycle(c.groups.now().Sub(began))
	if saveErr := c.save(ctx, p.group, p.state); err == nil && saveErr != nil {
		return reconcile.Result{}, saveErr
	}
	if err != nil {
		return c.backOff(ctx, p, err)
	}
	// What came up during the update goes into the next one.
	return reconcile.Result{RequeueAfter: nextPass}, nil
}

// next returns when the next pass is due after one without an update.
func (c *Controller) next(st *state, plan assignment.GroupPlan) reconcile.Result {
	poll := with(st, st.azure.pollDelay)
	if plan.Next.IsZero() {
		return reconcile.Result{RequeueAfter: poll}
	}
	next := max(plan.Next.Sub(c.groups.now()), time.Millisecond)
	if poll > 0 {
		next = min(next, poll)
	}
	return reconcile.Result{RequeueAfter: next}
}

// populated reports whether the group has nodes in the cluster.
func (c *Controller) populated(ctx context.Context, group compute.Group) (bool, error) {
	var nodes corev1.NodeList
	err := c.client.List(ctx, &nodes,
		client.MatchingFields{lookup.NodesByGroup: group.ResourceID()}, client.Limit(1), client.UnsafeDisableDeepCopy)
	if err != nil {
		return false, fmt.Errorf("list nodes of %s: %w", group, err)
	}
	return len(nodes.Items) > 0, nil
}

// cancelDetach cancels what was about to be detached and was not, and notifies the pods.
func (c *Controller) cancelDetach(st *state) {
	if st.cancelDetach() {
		c.notify(st)
	}
}

// notify wakes the pods whose identities made progress, or were refused.
func (c *Controller) notify(st *state) { c.groups.notify(st.changes()...) }
