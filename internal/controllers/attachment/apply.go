// Carrying out an update, and handling Azure's refusals.

package attachment

import (
	"context"
	"fmt"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/reason"
)

// read reads what the group has on Azure, and notifies the pods.
func (c *Controller) read(ctx context.Context, p *pass) error {
	bounded, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	have, err := c.cloud.Get(bounded, p.group)
	if err != nil {
		return err
	}
	if err := c.readClusterIdentities(ctx, p); err != nil {
		return err
	}
	p.fresh = true
	p.state.read(have, p.extra.set, c.groups.now())
	c.notify(p.state) // first: pods do not wait for what follows
	c.resolveMismatches(ctx, p.state)
	return nil
}

// readClusterIdentities records the client IDs of the cluster's own identities.
func (c *Controller) readClusterIdentities(ctx context.Context, p *pass) error {
	if c.settings.AllowClusterIdentities {
		return nil
	}
	var nodes corev1.NodeList
	err := c.client.List(ctx, &nodes,
		client.MatchingFields{lookup.NodesByGroup: p.group.ResourceID()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return fmt.Errorf("list nodes of %s: %w", p.group, err)
	}
	cluster := map[string]bool{}
	for id := range c.settings.ClusterIdentities {
		cluster[ascii.ToLower(id)] = true
	}
	for i := range nodes.Items {
		if id := nodes.Items[i].Labels[v1.KubeletIdentityLabel]; id != "" {
			cluster[ascii.ToLower(id)] = true
		}
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	p.state.azure.clientIDs.cluster = cluster
	return nil
}

// apply sends the requests of a plan. It quarantines identities that Azure refuses and goes on with
// the others; the error is about the group as a whole.
//
// Azure takes up to a minute for each request that it accepts. So once a remainder went through,
// apply returns if there are new needs. They are planned first, and the bisection goes on from
// there.
func (c *Controller) apply(ctx context.Context, p *pass, plan assignment.GroupPlan) error {
	st := p.state
	defer st.rollback()
	var blamed tenants
	for todo := requests(plan, with(st, st.trouble.takeRemainders)); len(todo) > 0; {
		next := todo[0]
		err := c.patch(ctx, p.group, next.Request)
		bad := compute.BadIdentities(err)
		switch {
		case err == nil:
			todo = todo[1:]
			c.done(ctx, p, next.Request)
			if next.remainder && st.keepForNewNeeds(todo) {
				return nil
			}
		case len(bad) == 0 && !compute.IsRefused(err) && !c.misnamed(ctx, p, err):
			st.markUncertain(next.Request, err)
			st.keep(todo)
			return err
		case len(bad) > 0 && !next.Names(bad):
			st.keep(todo)
			return st.blocked(p.group, bad, c.immutable, err)
		default:
			todo = c.narrow(ctx, p, &blamed, todo, err)
			c.notify(st)
		}
	}
	return nil
}

// rollback undoes ledger entries of requests that were not sent.
func (st *state) rollback() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ledger.rollback()
}

// keep keeps the remainders among requests that were not sent, for the next update.
func (st *state) keep(unsent []request) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.trouble.keepRemainders(unsent)
}

// keepForNewNeeds is keep if there are needs that no update has included yet, and reports that.
func (st *state) keepForNewNeeds(unsent []request) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.demand.firstAsked.IsZero() {
		return false
	}
	st.trouble.keepRemainders(unsent)
	return true
}

// done records a request that Azure carried out.
func (c *Controller) done(ctx context.Context, p *pass, req assignment.Request) {
	c.lifted(p.state.done(req))
	for _, id := range req.Attach {
		c.groups.notifyIdentities(p.extra.names[ledger.Key(id)]...)
	}
	logr.FromContextOrDiscard(ctx).Info("node group updated", "attached", len(req.Attach), "detached", len(req.Detach))
	if len(req.Attach) > 0 {
		c.readAttached(ctx, p)
	}
	c.notify(p.state)
}

// readAttached reads the client IDs of what was attached: pods are notified only if those are the
// ones that their AzureIdentity objects name. After a failure the next pass reads them.
func (c *Controller) readAttached(ctx context.Context, p *pass) {
	bounded, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	have, err := c.cloud.Get(bounded, p.group)
	if err != nil {
		logr.FromContextOrDiscard(ctx).V(1).Info("node group not read after an update, will be read again",
			"cause", err.Error())
		p.state.mu.Lock()
		defer p.state.mu.Unlock()
		p.state.azure.refresh = true
		p.state.demand.failed()
		return
	}
	p.state.readClientIDs(have, p.extra.set)
	c.notify(p.state)
	c.resolveMismatches(ctx, p.state)
}

// misnamed reports whether a "not found" is about something that the request names, and not about
// the group. Azure does not say which. Otherwise anyone who may write an AzureIdentity could make
// podid believe that a scale set is gone.
func (c *Controller) misnamed(ctx context.Context, p *pass, cause error) bool {
	if !compute.IsNotFound(cause) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	_, err := c.cloud.Get(ctx, p.group)
	return err == nil
}

// patch sends one request.
func (c *Controller) patch(ctx context.Context, group compute.Group, req assignment.Request) error {
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	c.metrics.AttachmentBegan(req.Size())
	defer c.metrics.AttachmentEnded()
	return c.cloud.Patch(ctx, group, req.Attach, req.Detach)
}

// quarantine leaves identities out of the coming updates for the reason that Azure gave.
func (c *Controller) quarantine(ctx context.Context, p *pass, culprits []string, cause error) {
	why := reason.IdentityRefused
	if compute.IsForbidden(cause) {
		why = reason.IdentityForbidden
	}
	for _, id := range culprits {
		// The message is about this identity only, and does not change while Azure's answer does
		// not, so that it is written to objects once.
		c.isolate(ctx, p, id, assignment.Refused(why, compute.About(cause, id)), cause)
	}
}

// isolate leaves an identity out of the coming updates.
func (c *Controller) isolate(ctx context.Context, p *pass, id string, why assignment.State, cause error) {
	identities, retryAfter := p.state.quarantine(id, p.extra, why, c.groups.now())
	for _, n := range identities {
		c.metrics.Quarantined(n.Namespace, n.Name, why.Reason)
	}
	c.groups.notifyIdentities(identities...)
	logr.FromContextOrDiscard(ctx).Error(cause, "identity refused, left out",
		"resourceID", id, "reason", why.Reason, "retryAfter", retryAfter)
}

// lifted reports the end of a quarantine.
func (c *Controller) lifted(identities []types.NamespacedName) {
	c.groups.notifyIdentities(identities...)
	for _, n := range identities {
		c.metrics.QuarantineLifted(n.Namespace, n.Name)
	}
}

// backOff records a failure of the whole group, and leaves Azure alone about it for a while.
func (c *Controller) backOff(ctx context.Context, p *pass, cause error) (reconcile.Result, error) {
	if ctx.Err() != nil {
		return reconcile.Result{}, nil //nolint:nilerr // the program stops, nothing failed
	}
	if compute.IsNotFound(cause) {
		return c.missing(ctx, p, cause)
	}
	st := p.state
	pause, failures := st.failed(cause, c.settings.RetryInterval, c.groups.now())
	_, throttled := compute.RetryAfter(cause)
	logr.FromContextOrDiscard(ctx).Error(cause, "node group not updated",
		"retryAfter", pause, "failures", failures, "throttled", throttled)
	c.notify(st)
	if st.idle() && with(st, st.ledger.written) && len(p.extra.set) == 0 {
		return reconcile.Result{}, nil // no pod waits; the next comparison asks again
	}
	return reconcile.Result{RequeueAfter: pause}, nil
}

// missing handles a group that does not exist on Azure. Removing nodes that still claim to be of it
// is up to the cloud provider; until then, the drift comparison asks again.
func (c *Controller) missing(ctx context.Context, p *pass, cause error) (reconcile.Result, error) {
	logr.FromContextOrDiscard(ctx).Info("node group does not exist on Azure",
		"cause", cause.Error(), "hasNodes", p.populated)
	p.state.missing(assignment.Refused(reason.GroupMissing, compute.AboutGroup(cause)))
	if err := c.write(ctx, p.group, p.state); err != nil {
		return reconcile.Result{}, err
	}
	c.notify(p.state)
	if !p.populated {
		c.lifted(c.groups.drop(p.group))
	}
	return reconcile.Result{}, nil
}
