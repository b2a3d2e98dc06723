// Package attachment makes the identities of every node group (a VM or a scale
// set) on Azure what the pods on it need, and tells the pods' assigned
// identities when they are there.
//
// The queue's key is the node group, so there is one update in flight per group
// and groups run side by side. Whatever comes up during an update goes into the
// next one: a scale set takes 40 to 60 s per update and four updates a minute,
// so coalescing is the whole game.
//
// reconciler.go is one pass over a group; apply.go carries an update out and
// sorts refusals; settle.go writes the assigned identities; state.go and
// ledger.go are what is remembered, in memory and for good.
package attachment

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/announce"
	"github.com/podid-io/podid/internal/identity"
)

// Cloud is what this controller needs of Azure; compute.Client has it.
type Cloud interface {
	// Get returns what a group has.
	Get(ctx context.Context, group compute.Group) (compute.Identities, error)
	// Patch attaches and detaches in one update, and returns when Azure is done.
	Patch(ctx context.Context, group compute.Group, attach, detach []string) error
}

// Metrics is what this controller measures; observe.Metrics has it.
type Metrics interface {
	AssignedIdentityAdded(took time.Duration)
	Cycle(took time.Duration)
	AttachmentBegan(identities int)
	AttachmentEnded()
	Quarantined(namespace, identity, reason string)
	QuarantineLifted(namespace, identity string)
}

// The indexes that the caches must have.
const (
	// NodesByGroup indexes nodes by their group's ARM resource ID.
	NodesByGroup = "podid/node-group"
	// AssignedByNode indexes assigned identities by their node's name.
	AssignedByNode = "podid/node-name"
)

// Settings are what an operator can choose.
type Settings struct {
	// Grace is how long an identity stays that no pod needs.
	Grace time.Duration
	// RetryInterval is the first pause after a failed update; it doubles up to
	// a minute.
	RetryInterval time.Duration
	// Writes is how many assigned identities of one group are written at once.
	Writes int
	// Immutable are identities never to detach: client ids or resource IDs.
	Immutable []string
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
	// catchUp is the pause for the cache to learn of a write that was missed.
	catchUp = 50 * time.Millisecond
	// lookAgain is the pause between two looks at an update of somebody else's
	// that brings an identity which pods wait for.
	lookAgain = 2 * time.Second
)

// Reconciler reconciles node groups.
type Reconciler struct {
	client   client.Client
	cloud    Cloud
	ledger   Ledger
	groups   *Groups
	events   *announce.Events
	metrics  Metrics
	settings Settings
	now      func() time.Time

	immutable map[string]bool
	queue     queue
}

// Parts are what a Reconciler works with.
type Parts struct {
	Client  client.Client
	Cloud   Cloud
	Ledger  Ledger
	Groups  *Groups
	Events  *announce.Events
	Metrics Metrics
}

// New returns a Reconciler.
func New(parts Parts, settings Settings) *Reconciler {
	r := &Reconciler{
		client: parts.Client, cloud: parts.Cloud, ledger: parts.Ledger, groups: parts.Groups,
		events: parts.Events, metrics: parts.Metrics, settings: settings, now: parts.Groups.now,
		immutable: map[string]bool{},
	}
	for _, id := range settings.Immutable {
		if id = keyOf(id); id != "" {
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
	members, err := r.members(ctx, group)
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := r.load(ctx, group, st); err != nil {
		return reconcile.Result{}, err
	}
	if members.idle(st) && members.nodes == 0 {
		r.lifted(r.groups.drop(group))
		return reconcile.Result{}, nil
	}
	fresh := false
	if _, known := st.known(); !known {
		if err := r.read(ctx, group, st); err != nil {
			return r.setBack(ctx, group, st, members, err)
		}
		fresh = true
	}
	return r.pass(ctx, group, st, members, fresh)
}

// pass plans and carries out, given that Azure and the ledger are known. fresh
// says that Azure was asked just now.
func (r *Reconciler) pass(ctx context.Context, group compute.Group, st *state, members members, fresh bool) (reconcile.Result, error) {
	// What is there already must not wait for an update about something else.
	if err := r.settle(ctx, st, members); err != nil {
		return reconcile.Result{}, err
	}
	plan := st.plan(members.needs, r.immutable, r.settings.Grace, r.now())
	defer st.stay()
	if !fresh && (st.unrecorded(plan.Attach, plan.Probation) || len(plan.Detach) > 0 && len(r.immutable) > 0) {
		// About to call something ours: look once more that nobody else has
		// put it there since the last look. About to take something away: let
		// Azure tell its client id, which may be on the list of the immutable.
		st.stay()
		if err := r.read(ctx, group, st); err != nil {
			return r.setBack(ctx, group, st, members, err)
		}
		plan = st.plan(members.needs, r.immutable, r.settings.Grace, r.now())
	}
	if err := r.record(ctx, group, st, members, plan); err != nil {
		return reconcile.Result{}, err
	}
	if plan.Idle() {
		// After a fresh look, what was missing may be there.
		err := r.settle(ctx, st, members)
		return r.next(st, plan), err
	}
	return r.update(ctx, group, st, members, plan)
}

// update carries a plan out.
func (r *Reconciler) update(ctx context.Context, group compute.Group, st *state, members members, plan assignment.GroupPlan) (reconcile.Result, error) {
	began := r.now()
	err := r.apply(ctx, group, st, members, plan)
	r.metrics.Cycle(r.now().Sub(began))
	if saved := r.save(ctx, group, st); err == nil && saved != nil {
		return reconcile.Result{}, saved
	}
	if err != nil {
		return r.setBack(ctx, group, st, members, err)
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

// members are the nodes of a group and what the pods on them need.
type members struct {
	nodes    int
	assigned []*v1.AzureAssignedIdentity // of managed identities; read-only, shared with the cache
	needs    map[claimKey]string         // to the spelling of the resource ID
	clients  map[string]string           // canonical resource ID -> client id
}

// idle tells that no pod needs anything and nothing of ours is there.
func (m members) idle(st *state) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(m.needs) == 0 && len(st.ledger) == 0 && len(st.claims) == 0
}

// members reads the caches.
func (r *Reconciler) members(ctx context.Context, group compute.Group) (members, error) {
	m := members{needs: map[claimKey]string{}, clients: map[string]string{}}
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes, client.MatchingFields{NodesByGroup: group.ResourceID()}, client.UnsafeDisableDeepCopy); err != nil {
		return m, fmt.Errorf("list nodes of %s: %w", group, err)
	}
	m.nodes = len(nodes.Items)
	for i := range nodes.Items {
		var list v1.AzureAssignedIdentityList
		if err := r.client.List(ctx, &list, client.MatchingFields{AssignedByNode: nodes.Items[i].Name}, client.UnsafeDisableDeepCopy); err != nil {
			return m, fmt.Errorf("list assigned identities of node %s: %w", nodes.Items[i].Name, err)
		}
		for j := range list.Items {
			m.add(&list.Items[j])
		}
	}
	return m, nil
}

func (m *members) add(assigned *v1.AzureAssignedIdentity) {
	need, id, ok := needOf(assigned)
	if !ok {
		return
	}
	m.assigned = append(m.assigned, assigned)
	m.needs[need] = id.String()
	if clientID := assigned.Spec.AzureIdentityRef.Spec.ClientID; clientID != "" {
		m.clients[need.key] = clientID
	}
}

// needOf is what an assigned identity needs of its node group; false when that
// is nothing: another kind of identity, a broken one, or an object on its way out.
func needOf(assigned *v1.AzureAssignedIdentity) (claimKey, identity.ResourceID, bool) {
	ref := assigned.Spec.AzureIdentityRef
	if ref == nil || ref.Spec.Type != v1.UserAssignedMSI || !assigned.DeletionTimestamp.IsZero() {
		return claimKey{}, identity.ResourceID{}, false
	}
	id, err := identity.ParseResourceID(ref.Spec.ResourceID)
	if err != nil {
		return claimKey{}, identity.ResourceID{}, false
	}
	pod := types.NamespacedName{Namespace: assigned.Spec.PodNamespace, Name: assigned.Spec.Pod}
	return claimKey{pod, id.Key()}, id, true
}

// named returns the AzureIdentity objects behind a resource ID.
func (m members) named(key string) []types.NamespacedName {
	var names []types.NamespacedName
	for _, assigned := range m.assigned {
		need, _, ok := needOf(assigned)
		if !ok || need.key != key {
			continue
		}
		ref := assigned.Spec.AzureIdentityRef
		if name := (types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
