// Carrying an update out, and what to make of Azure's refusals.

package attachment

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
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
	// afterThrottle spreads groups that Azure sent away until the same second. Pods
	// wait meanwhile: it is short.
	afterThrottle = 250 * time.Millisecond
	// complainAfter is how many failures in a row make it worth telling the
	// pods: one retry helps against most of what goes wrong for a moment.
	// No failure that lasts longer than complainLatest stays untold, however long
	// each try takes.
	complainAfter  = 3
	complainLatest = time.Minute
)

// read asks Azure what the group has, and tells the pods.
func (r *Reconciler) read(ctx context.Context, p *pass) error {
	bounded, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	have, err := r.cloud.Get(bounded, p.group)
	if err != nil {
		return err
	}
	if err := r.readClusterIdentities(ctx, p); err != nil {
		return err
	}
	p.fresh = true
	p.state.read(have, p.extra.set, r.now())
	r.tell(p.state) // first: pods do not wait for what follows
	r.investigate(ctx, p.state)
	return nil
}

// part is a request of an update.
type part struct {
	assignment.Request
	// half tells that it was part of a request that Azure refused.
	half bool
}

// apply makes the requests of a plan. An identity that Azure refuses goes into
// quarantine and the others go on without it. The error is about the group as a
// whole.
//
// Each request that Azure takes lasts up to a minute. So once a half went through,
// what came up meanwhile is planned first, and what is left of the halving goes on
// from there.
func (r *Reconciler) apply(ctx context.Context, p *pass, plan assignment.GroupPlan) error {
	defer p.state.disclaim()
	var blamed teams
	for todo := p.state.parts(plan); len(todo) > 0; {
		next := todo[0]
		err := r.patch(ctx, p.group, next.Request)
		bad := compute.BadIdentities(err)
		switch {
		case err == nil:
			todo = todo[1:]
			r.done(ctx, p, next.Request)
			if next.half && p.state.askedMeanwhile() {
				p.state.keep(todo)
				return nil
			}
		case len(bad) == 0 && !compute.IsRefused(err) && !r.misnamed(ctx, p, err):
			p.state.failedUpdate(next.Request, err)
			p.state.keep(todo)
			return err
		case len(bad) > 0 && !next.Names(bad):
			p.state.keep(todo)
			return p.state.blocked(p.group, bad, r.immutable, err)
		default:
			todo = r.narrow(ctx, p, &blamed, todo, err)
			r.tell(p.state)
		}
	}
	return nil
}

// done takes an update that went through.
func (r *Reconciler) done(ctx context.Context, p *pass, req assignment.Request) {
	r.lifted(p.state.done(req))
	for _, id := range req.Attach {
		r.look(p.extra.names[ledger.Key(id)]...)
	}
	logr.FromContextOrDiscard(ctx).Info("node group updated", "attached", len(req.Attach), "detached", len(req.Detach))
	if len(req.Attach) > 0 {
		r.readAttached(ctx, p)
	}
	r.tell(p.state)
}

// readAttached asks Azure for the client IDs of what was attached: pods are told only when they are
// those that their AzureIdentity objects name. After a failure the next pass asks again.
func (r *Reconciler) readAttached(ctx context.Context, p *pass) {
	bounded, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	have, err := r.cloud.Get(bounded, p.group)
	if err != nil {
		logr.FromContextOrDiscard(ctx).V(1).Info("node group not read after an update, will be read again", "cause", err.Error())
		p.state.mu.Lock()
		defer p.state.mu.Unlock()
		p.state.refresh = true
		return
	}
	p.state.learn(have, p.extra.set)
	r.tell(p.state)
	r.investigate(ctx, p.state)
}

// misnamed tells whether Azure misses something else than the group, although it
// does not say what: then it is something that the request names. Whoever may
// write an AzureIdentity must not make us believe that a scale set is gone.
func (r *Reconciler) misnamed(ctx context.Context, p *pass, cause error) bool {
	if !compute.IsNotFound(cause) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	_, err := r.cloud.Get(ctx, p.group)
	return err == nil
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
func (r *Reconciler) quarantine(ctx context.Context, p *pass, culprits []string, cause error) {
	reason := assignment.ReasonIdentityRefused
	if compute.IsForbidden(cause) {
		reason = assignment.ReasonIdentityForbidden
	}
	for _, id := range culprits {
		// Each hears of its own identity only, and the same as long as Azure says
		// the same: what is on the objects is written once.
		r.isolate(ctx, p, id, assignment.State{Reason: reason, Message: compute.About(cause, id)}, cause)
	}
}

// isolate leaves an identity out of the coming updates, for the reason in why.
func (r *Reconciler) isolate(ctx context.Context, p *pass, id string, why assignment.State, cause error) {
	now := r.now()
	why.Status = v1.StateCreated
	st := p.state
	st.mu.Lock()
	defer st.mu.Unlock()
	key := ledger.Key(id)
	q := st.quarantined[key]
	if q == nil {
		q = &quarantine{chances: rate.NewLimiter(rate.Every(chanceEvery), chances)}
		st.quarantined[key] = q
	}
	q.identities = slices.Concat(st.identities(key), p.extra.names[key])
	q.times++
	q.state = why
	q.retry, q.until = now.Add(doubled(quarantineFirst, q.times, quarantineMost)), now.Add(quarantineMost)
	if !st.current.Has(key) && st.ledger[key].Owned() {
		delete(st.ledger, key) // it is not there by our doing
	}
	if !st.current.Has(key) {
		st.renewed(key)
	}
	for _, n := range q.identities {
		r.metrics.Quarantined(n.Namespace, n.Name, why.Reason)
	}
	r.look(q.identities...)
	logr.FromContextOrDiscard(ctx).Error(cause, "identity refused, left out", "resourceID", id, "reason", why.Reason, "retryAfter", q.retry.Sub(now))
}

func (r *Reconciler) lifted(identities []types.NamespacedName) {
	r.look(identities...)
	for _, n := range identities {
		r.metrics.QuarantineLifted(n.Namespace, n.Name)
	}
}

// setBack notes that Azure failed the whole group, and until when to leave it
// alone.
func (r *Reconciler) setBack(ctx context.Context, p *pass, cause error) (reconcile.Result, error) {
	if ctx.Err() != nil {
		return reconcile.Result{}, nil //nolint:nilerr // the program stops, nothing failed
	}
	if compute.IsNotFound(cause) {
		return r.gone(ctx, p, cause)
	}
	st := p.state
	pause, failures := st.failed(cause, r.settings.RetryInterval, r.now())
	_, throttled := compute.RetryAfter(cause)
	logr.FromContextOrDiscard(ctx).Error(cause, "node group not updated", "retryAfter", pause, "failures", failures, "throttled", throttled)
	r.tell(st)
	if st.idle() && st.written() && len(p.extra.set) == 0 {
		return reconcile.Result{}, nil // nobody waits; the next comparison asks again
	}
	return reconcile.Result{RequeueAfter: pause}, nil
}

// failed notes a failure, and returns how long to leave Azure alone about the
// group and how many failures there were in a row.
func (st *state) failed(cause error, retryInterval time.Duration, now time.Time) (pause time.Duration, failures int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.failures++; st.failures == 1 {
		st.failing = now
	}
	pause, throttled := compute.RetryAfter(cause)
	if throttled {
		pause += rand.N(afterThrottle)
	} else {
		// Half of it is chance, so that groups that failed together do not
		// come back together.
		pause = doubled(retryInterval, st.failures, setBackMost)
		pause = pause/2 + rand.N(pause/2+1)
	}
	if compute.IsConflict(cause) && !throttled && !compute.IsLocked(cause) {
		pause = min(pause, conflictMost)
	}
	st.notBefore = now.Add(pause)
	blocked, isBlocked := errors.AsType[*blockedError](cause)
	switch {
	case isBlocked:
		st.trouble = assignment.State{Status: v1.StateCreated, Reason: assignment.ReasonGroupBlocked, Message: blocked.remedy()}
	case compute.IsForbidden(cause):
		st.trouble = assignment.State{Status: v1.StateCreated, Reason: assignment.ReasonGroupForbidden, Message: compute.AboutGroup(cause)}
	case compute.IsLocked(cause):
		st.trouble = assignment.State{Status: v1.StateCreated, Reason: assignment.ReasonGroupLocked, Message: compute.AboutGroup(cause)}
	case st.complaint == "" && (st.failures >= complainAfter || now.Sub(st.failing) >= complainLatest):
		st.complaint = compute.AboutGroup(cause) + "; podid keeps trying"
	}
	return pause, st.failures
}

// gone handles a group that Azure does not know: what we had attached to it is
// gone with it. Nodes that still claim to be of it are the cloud provider's to
// remove; until then the comparison asks again.
func (r *Reconciler) gone(ctx context.Context, p *pass, cause error) (reconcile.Result, error) {
	logr.FromContextOrDiscard(ctx).Info("node group does not exist on Azure", "cause", cause.Error(), "hasNodes", p.populated)
	st := p.state
	st.mu.Lock()
	clear(st.ledger)
	clear(st.unneeded)
	st.current, st.failures = nil, 0
	st.trouble = assignment.State{Status: v1.StateCreated, Reason: assignment.ReasonGroupMissing, Message: compute.AboutGroup(cause)}
	st.mu.Unlock()
	if err := r.write(ctx, p.group, st); err != nil {
		return reconcile.Result{}, err
	}
	r.tell(st)
	if !p.populated {
		r.lifted(r.groups.drop(p.group))
	}
	return reconcile.Result{}, nil
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
