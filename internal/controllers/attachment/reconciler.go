// Package attachment makes the identities of every node group (a VM or a scale
// set) on Azure what the pods on it need, and tells the pods' controller when
// they are there.
//
// The queue's key is the node group, so there is one update in flight per group
// and groups run side by side. Whatever comes up during an update goes into the
// next one: a scale set takes 40 to 60 s per update and four updates a minute,
// so coalescing is the whole game.
//
// groups.go is what both controllers know together, state.go what is remembered
// of one group; reconciler.go is one pass over a group, apply.go carries an update
// out and sorts refusals; ledger.go is what is remembered for good.
package attachment

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

// Cloud is what this controller needs of Azure; compute.Client has it.
type Cloud interface {
	// Get returns what a group has.
	Get(ctx context.Context, group compute.Group) (compute.Identities, error)
	// Patch attaches and detaches in one update, and returns when Azure is done.
	Patch(ctx context.Context, group compute.Group, attach, detach []string) error
	// Pause tells how long Azure is to be left alone about a group, 0 for not.
	Pause(group compute.Group) time.Duration
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

// NodesByGroup is the index that the caches must have: nodes by their group's ARM
// resource ID.
const NodesByGroup = "podid/node-group"

// Settings are what an operator can choose.
type Settings struct {
	// Grace is how long an identity stays that no pod needs.
	Grace time.Duration
	// RetryInterval is the first pause after a failed update; it doubles up to
	// a minute.
	RetryInterval time.Duration
	// Immutable are identities never to detach: client ids or resource IDs.
	Immutable []string
	// AllowClusterIdentities lets pods have the identities that are the cluster's own. Without it
	// they are refused: ClusterIdentities (client IDs), and the kubelets' by their nodes' label.
	AllowClusterIdentities bool
	ClusterIdentities      map[string]bool
	// MayPreassign tells whether the AzureIdentity objects of a namespace may be
	// on node groups before a pod needs them; nil: all may.
	MayPreassign func(namespace string) bool
}

// Events tells the owners of AzureIdentity objects; announce.Events does.
type Events interface {
	// PreassignmentRefused says why the annotation is not followed, once per
	// change; "" takes it back.
	PreassignmentRefused(id *v1.AzureIdentity, why string)
}

// Identities are those who tell how AzureIdentity objects stand.
type Identities interface {
	// Look says that the standing of these may have changed.
	Look(names ...types.NamespacedName)
}

// The bounds of calls to Azure. A scale set's update usually takes a minute; one
// of 16 minutes has been reported, and holding up a group that long helps nobody.
const (
	readTimeout  = 30 * time.Second
	patchTimeout = 5 * time.Minute
	// saveTimeout bounds writing the ledger once the work is done.
	saveTimeout = 15 * time.Second
	// again is the pause between two passes of which the first left work.
	again = time.Millisecond
	// lookAgain is the pause between two looks at an update of somebody else's
	// that brings an identity which pods wait for.
	lookAgain = 2 * time.Second
)

// Reconciler reconciles node groups.
type Reconciler struct {
	client    client.Client
	cloud     Cloud
	ledger    ledger.Store
	groups    *Groups
	metrics   Metrics
	settings  Settings
	now       func() time.Time
	immutable map[string]bool

	events     Events     // nil: nobody is told
	identities Identities // nil: nobody looks

	snapshot ledger.Snapshot
	health   health
}

// Parts are what a Reconciler works with.
type Parts struct {
	Client  client.Client
	Cloud   Cloud
	Ledger  ledger.Store
	Groups  *Groups
	Metrics Metrics
	// Events and Identities may be nil.
	Events     Events
	Identities Identities
}

// New returns a Reconciler.
func New(parts Parts, settings Settings) *Reconciler {
	r := &Reconciler{
		client: parts.Client, cloud: parts.Cloud, ledger: parts.Ledger, groups: parts.Groups,
		metrics: parts.Metrics, settings: settings, now: parts.Groups.now, immutable: map[string]bool{},
		events: parts.Events, identities: parts.Identities, snapshot: ledger.Snapshot{Store: parts.Ledger},
	}
	for _, id := range settings.Immutable {
		if id = ascii.Loose(ledger.Key(id)); id != "" {
			r.immutable[id] = true
		}
	}
	return r
}

// Reconcile makes one pass over a group. Azure's troubles are not errors here:
// they set the time of the next pass. Errors are the API server's.
func (r *Reconciler) Reconcile(ctx context.Context, group compute.Group) (reconcile.Result, error) {
	st := r.groups.of(group)
	if rest := st.resting(r.now()); rest > 0 {
		return reconcile.Result{RequeueAfter: rest}, nil
	}
	populated, err := r.populated(ctx, group)
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := r.load(ctx, group, st); err != nil {
		return reconcile.Result{}, err
	}
	if !populated && st.idle() {
		// What the last update changed may not have been written down: an entry too
		// many makes ours what somebody else attaches.
		if err := r.write(ctx, group, st); err != nil {
			return reconcile.Result{}, err
		}
		r.lifted(r.groups.drop(group))
		return reconcile.Result{}, nil
	}
	if !st.known() && r.later(group, st) {
		return reconcile.Result{}, nil
	}
	p := &pass{group: group, state: st, populated: populated}
	p.extra = r.groups.preassignedTo(group)
	r.leftOut(ctx, p)
	if !populated {
		st.owned(p.extra.set) // a scale set that shrank to nothing keeps what it has, but gets no more
	}
	if !st.known() {
		if pause := r.cloud.Pause(group); pause > 0 {
			return reconcile.Result{RequeueAfter: pause}, nil
		}
		if err := r.read(ctx, p); err != nil {
			return r.setBack(ctx, p, err)
		}
	}
	if !r.groups.isCaughtUp() {
		return reconcile.Result{}, nil // what is known so far serves the pods that it serves
	}
	return r.plan(ctx, p)
}

// later tells whether there is no hurry to ask Azure about a group: nobody needs
// anything of it, and asking about a thousand machines at the start would keep
// those waiting that do. The comparison with Azure gets to it.
func (r *Reconciler) later(group compute.Group, st *state) bool {
	return group.Kind == compute.VM && st.idle() && !r.groups.isCaughtUp()
}

// pass is one look at a group.
type pass struct {
	group compute.Group
	state *state
	// populated tells whether the group has nodes in the cluster.
	populated bool
	// extra are identities that the group is to have without any pod.
	extra extras
	// fresh tells that Azure was asked just now.
	fresh bool
}

// plan plans and carries out, given that Azure and the ledger are known.
func (r *Reconciler) plan(ctx context.Context, p *pass) (reconcile.Result, error) {
	st := p.state
	plan := st.plan(p.extra, r.immutable, r.settings.Grace, r.now())
	defer r.stay(st)
	if !plan.Idle() {
		if wait := max(st.settling(r.now()), r.cloud.Pause(p.group), st.predecessor(r.now())); wait > 0 {
			return reconcile.Result{RequeueAfter: wait}, nil
		}
	}
	if !p.fresh && (st.unrecorded(plan.Attach, plan.Probation) || len(plan.Detach) > 0) {
		// About to call something ours: look once more that nobody else has
		// put it there since the last look. About to take something away: let
		// Azure tell its client id, which may be on the list of the immutable.
		st.stay() // reading tells
		if err := r.read(ctx, p); err != nil {
			return r.setBack(ctx, p, err)
		}
		plan = st.plan(p.extra, r.immutable, r.settings.Grace, r.now())
	}
	plan, refused := r.admit(ctx, p, plan)
	if err := r.record(ctx, p.group, st, plan); err != nil {
		if r.refusedPage(ctx, p, plan, err) {
			return reconcile.Result{RequeueAfter: again}, nil
		}
		return reconcile.Result{}, err
	}
	if refused && plan.Idle() {
		return reconcile.Result{RequeueAfter: again}, nil // what had no place in this plan may fit
	}
	if plan.Idle() {
		r.lifted(st.settled(p.extra.set, r.now()))
		return r.next(st, plan), nil
	}
	return r.update(ctx, p, plan)
}

// update carries a plan out.
func (r *Reconciler) update(ctx context.Context, p *pass, plan assignment.GroupPlan) (reconcile.Result, error) {
	began := r.now()
	p.state.begin()
	err := r.apply(ctx, p, plan)
	r.metrics.Cycle(r.now().Sub(began))
	if saved := r.save(ctx, p.group, p.state); err == nil && saved != nil {
		return reconcile.Result{}, saved
	}
	if err != nil {
		return r.setBack(ctx, p, err)
	}
	// What came up during the update goes into the next one.
	return reconcile.Result{RequeueAfter: again}, nil
}

func (r *Reconciler) next(st *state, plan assignment.GroupPlan) reconcile.Result {
	soon := st.soon()
	if plan.Next.IsZero() {
		return reconcile.Result{RequeueAfter: soon}
	}
	next := max(plan.Next.Sub(r.now()), time.Millisecond)
	if soon > 0 {
		next = min(next, soon)
	}
	return reconcile.Result{RequeueAfter: next}
}

// populated tells whether the group has nodes in the cluster.
func (r *Reconciler) populated(ctx context.Context, group compute.Group) (bool, error) {
	var nodes corev1.NodeList
	err := r.client.List(ctx, &nodes, client.MatchingFields{NodesByGroup: group.ResourceID()}, client.Limit(1), client.UnsafeDisableDeepCopy)
	if err != nil {
		return false, fmt.Errorf("list nodes of %s: %w", group, err)
	}
	return len(nodes.Items) > 0, nil
}

// stay takes back what was about to leave and has not left, and tells.
func (r *Reconciler) stay(st *state) {
	if st.stay() {
		r.tell(st)
	}
}

// tell wakes the pods whose identities got further, or not.
func (r *Reconciler) tell(st *state) { r.groups.tell(st.news()...) }
