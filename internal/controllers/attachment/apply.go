// Carrying an update out, and what to make of Azure's refusals.

package attachment

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
)

// The values of status.reason that this controller writes.
const (
	// ReasonIdentityRefused: Azure takes everything but this identity; most
	// often it does not exist.
	ReasonIdentityRefused = "IdentityRefused"
	// ReasonIdentityForbidden: podid's own identity may not assign this one.
	ReasonIdentityForbidden = "IdentityForbidden"
	// ReasonGroupForbidden: podid's own identity may not update the node group.
	ReasonGroupForbidden = "NodeGroupForbidden"
	// ReasonGroupMissing: Azure does not know the VM or scale set.
	ReasonGroupMissing = "NodeGroupMissing"
)

// The pauses. A refused identity is tried again after 30 s, doubling to ten
// minutes (and at once when its AzureIdentity changes); each try is an update of
// the group, of which a scale set takes four a minute. A group that cannot be
// updated at all is tried after the retry interval, doubling to a minute.
const (
	quarantineFirst = 30 * time.Second
	quarantineMost  = 10 * time.Minute
	setBackMost     = time.Minute
	// conflictMost bounds the pause while somebody else's operation runs: a scale
	// set takes 4 writes a minute, and refused ones count.
	conflictMost = 15 * time.Second
)

// read asks Azure what the group has.
func (r *Reconciler) read(ctx context.Context, group compute.Group, st *state) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	have, err := r.cloud.Get(ctx, group)
	if err != nil {
		return err
	}
	st.read(have, r.now())
	return nil
}

// apply makes the requests of a plan. What Azure accepts is settled at once; an
// identity that it refuses goes into quarantine and the others go on without it.
// The error is about the group as a whole.
func (r *Reconciler) apply(ctx context.Context, group compute.Group, st *state, members members, plan assignment.GroupPlan) error {
	for _, req := range requests(plan) {
		if err := r.applyOne(ctx, group, st, members, req); err != nil {
			return err
		}
	}
	return nil
}

// requests are the plan's, those on probation apart.
func requests(plan assignment.GroupPlan) []assignment.Request {
	var reqs []assignment.Request
	if len(plan.Attach)+len(plan.Detach) > 0 {
		reqs = append(reqs, assignment.Request{Attach: plan.Attach, Detach: plan.Detach})
	}
	if len(plan.Probation) > 0 {
		reqs = append(reqs, assignment.Request{Attach: plan.Probation})
	}
	return reqs
}

func (r *Reconciler) applyOne(ctx context.Context, group compute.Group, st *state, members members, req assignment.Request) error {
	for todo := []assignment.Request{req}; len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		err := r.patch(ctx, group, next)
		switch {
		case err == nil:
			r.lifted(st.done(next))
			logr.FromContextOrDiscard(ctx).Info("node group updated", "attached", len(next.Attach), "detached", len(next.Detach))
			if err := r.settleNow(ctx, group, st); err != nil {
				return err
			}
		case len(compute.BadIdentities(err)) == 0 && !compute.IsRefused(err):
			st.doubt(next)
			return err
		default:
			rest, culprits := assignment.Narrow(next, compute.BadIdentities(err))
			r.quarantine(ctx, st, members, culprits, err)
			todo = append(rest, todo...)
		}
	}
	return r.settleNow(ctx, group, st)
}

// patch makes one request.
func (r *Reconciler) patch(ctx context.Context, group compute.Group, req assignment.Request) error {
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	r.metrics.AttachmentBegan(req.Size())
	defer r.metrics.AttachmentEnded()
	return r.cloud.Patch(ctx, group, req.Attach, req.Detach)
}

// quarantine leaves identities out of the coming updates, for the reason that
// Azure gave.
func (r *Reconciler) quarantine(ctx context.Context, st *state, members members, culprits []string, cause error) {
	said := assignment.State{Status: v1.StateCreated, Reason: ReasonIdentityRefused, Message: cause.Error()}
	if compute.IsForbidden(cause) {
		said.Reason = ReasonIdentityForbidden
	}
	now := r.now()
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, id := range culprits {
		key := keyOf(id)
		q := st.quarantined[key]
		if q == nil {
			q = &quarantine{identities: members.named(key)}
			st.quarantined[key] = q
		}
		q.times++
		q.state = said
		q.retry = now.Add(doubled(quarantineFirst, q.times, quarantineMost))
		if !st.current.Has(key) {
			delete(st.ledger, key) // Azure said no: it is not there by our doing
		}
		for _, n := range q.identities {
			r.metrics.Quarantined(n.Namespace, n.Name, said.Reason)
		}
		logr.FromContextOrDiscard(ctx).Error(cause, "identity refused by Azure, left out", "resourceID", id, "retryAfter", q.retry.Sub(now))
	}
}

func (r *Reconciler) lifted(identities []types.NamespacedName) {
	for _, n := range identities {
		r.metrics.QuarantineLifted(n.Namespace, n.Name)
	}
}

// setBack notes that Azure failed the whole group, and until when to leave it
// alone.
func (r *Reconciler) setBack(ctx context.Context, group compute.Group, st *state, members members, cause error) (reconcile.Result, error) {
	if ctx.Err() != nil {
		return reconcile.Result{}, nil //nolint:nilerr // the program stops, nothing failed
	}
	log := logr.FromContextOrDiscard(ctx)
	if compute.IsNotFound(cause) {
		return r.gone(ctx, group, st, members, cause)
	}
	pause, throttled := compute.RetryAfter(cause)
	st.mu.Lock()
	st.failures++
	failures := st.failures
	if !throttled {
		pause = doubled(r.settings.RetryInterval, failures, setBackMost)
	}
	if compute.IsConflict(cause) {
		pause = min(pause, conflictMost)
	}
	st.notBefore = r.now().Add(pause)
	if compute.IsForbidden(cause) {
		st.trouble = assignment.State{Status: v1.StateCreated, Reason: ReasonGroupForbidden, Message: cause.Error()}
	}
	st.mu.Unlock()
	log.Error(cause, "node group not updated", "retryAfter", pause, "failures", failures, "throttled", throttled)
	if len(members.needs) == 0 && members.idle(st) {
		return reconcile.Result{}, nil // nobody waits; the next comparison asks again
	}
	r.complain(ctx, st, members, failures, cause)
	return reconcile.Result{RequeueAfter: pause}, r.settle(ctx, st, members)
}

// complainAfter is how many failures in a row make it worth telling the pods:
// one retry helps against most of what goes wrong for a moment.
const complainAfter = 3

// complain tells the waiting pods that Azure does not answer, once a streak of
// failures. A state that they carry in their status is announced there instead.
func (r *Reconciler) complain(ctx context.Context, st *state, members members, failures int, cause error) {
	st.mu.Lock()
	troubled := st.trouble.Reason != ""
	st.mu.Unlock()
	if troubled || failures != complainAfter {
		return
	}
	for _, assigned := range members.assigned {
		if assigned.Status.Status != v1.StateAssigned {
			r.events.NotAssigned(assigned, r.pod(ctx, assigned), fmt.Sprintf("%v; podid keeps trying", cause))
		}
	}
}

// gone handles a group that Azure does not know: what we had attached to it is
// gone with it. Nodes that still claim to be of it are the cloud provider's to
// remove; until then drift asks again.
func (r *Reconciler) gone(ctx context.Context, group compute.Group, st *state, members members, cause error) (reconcile.Result, error) {
	logr.FromContextOrDiscard(ctx).Info("node group does not exist on Azure", "cause", cause.Error(), "nodes", members.nodes)
	st.mu.Lock()
	clear(st.ledger)
	clear(st.unneeded)
	st.current, st.failures = nil, 0
	st.trouble = assignment.State{Status: v1.StateCreated, Reason: ReasonGroupMissing, Message: cause.Error()}
	st.mu.Unlock()
	if err := r.write(ctx, group, st); err != nil {
		return reconcile.Result{}, err
	}
	if members.nodes == 0 {
		r.lifted(r.groups.drop(group))
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, r.settle(ctx, st, members)
}

// doubled is first, doubled for every time after the first, at most most.
func doubled(first time.Duration, times int, most time.Duration) time.Duration {
	pause := first
	for range times - 1 {
		if pause *= 2; pause >= most {
			return most
		}
	}
	return min(pause, most)
}
