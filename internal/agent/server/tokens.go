// Token requests, from the pod to the token.

package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/agent/pending"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// statusGone is the status in metrics when the client disconnected, as in nginx.
const statusGone = 499

// maxSteps bounds the steps of a request that did not wait. More mean that grants change faster
// than tokens are fetched. Steps that waited are bounded by the time limit of the wait instead,
// because a starting pod changes often.
const maxSteps = 8

// coalesceTime is the pause between steps of a request that was woken more than maxSteps times.
const coalesceTime = 100 * time.Millisecond

func (s *Server) servePodToken(w http.ResponseWriter, r *http.Request, res *result) {
	q, refusal := imds.ParseTokenRequest(r.URL.RawQuery)
	if refusal != nil {
		res.refuse(refusal)
		return
	}
	s.obtain(r.Context(), q, res, func(ctx context.Context) (attest.Caller, error) {
		return s.attest(ctx, res.address, res.began)
	})
	switch {
	case res.excepted:
		s.plainToken(w, r, res)
	case res.token == nil:
	case s.callerGone(r, res.began):
		res.token = nil
		res.callerGone(w)
	default:
		writeToken(w, res)
	}
}

// minReuseTime is shorter than the time from a pod's end to the reuse of its address. A network
// plugin needs tens of milliseconds to delete a pod's network and create another one.
const minReuseTime = 5 * time.Millisecond

// callerGone reports whether the network interface of the pod was deleted since the request was
// received. Its address may already belong to another pod, which would receive the answer, while
// the API server does not report the pod's end yet. The kernel is asked only about requests that
// took longer than minReuseTime.
func (s *Server) callerGone(r *http.Request, began time.Time) bool {
	c := connections.Of(r)
	return c != nil && !s.cfg.AnyInterface && time.Since(began) > minReuseTime && c.InterfaceGone()
}

// callerGone records that the pod ended before it was answered. Nothing is written.
func (res *result) callerGone(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	res.refuse(reason.CallerGone.Refuse("the pod that asked has ended"))
	res.clientGone = true
}

// attest returns the pod at an address. It waits up to AttestLimit for a pod that is not known yet.
func (s *Server) attest(ctx context.Context, address attest.Origin, began time.Time) (attest.Caller, error) {
	if caller, ok := s.known(address); ok {
		return caller, nil
	}
	ctx, cancel := context.WithDeadline(ctx, began.Add(s.cfg.AttestLimit))
	defer cancel()
	if err := s.awaitCluster(ctx); err != nil {
		return attest.Caller{}, err
	}
	return s.cfg.Attester.Await(ctx, address)
}

// known returns the pod at an address, if it is known now.
func (s *Server) known(from attest.Origin) (attest.Caller, bool) {
	select {
	case <-s.cfg.Known:
		caller, err := s.cfg.Attester.Caller(from)
		return caller, err == nil
	default:
		return attest.Caller{}, false
	}
}

// awaitCluster waits until the cluster is known.
func (s *Server) awaitCluster(ctx context.Context) error {
	select {
	case <-s.cfg.Known:
		return nil
	case <-s.cfg.Stopping:
		return errStopping
	case <-ctx.Done():
		return errNotReady
	}
}

var (
	errNotReady = errors.New("the agent has not read the cluster from the API server yet")
	errStopping = errors.New("the agent is being restarted")
)

// tokenRequest is a token request in progress.
type tokenRequest struct {
	*Server
	q        imds.TokenRequest
	selector identity.Selector
	res      *result

	allPending *pending.Requests // for requests of the same endpoint
	waiting    *pending.Request  // nil if it has never waited
	stepsLeft  int
	wakeups    int // waits that ended by a change

	// A token that was fetched, and its identity. It is issued only if the decision is still the
	// same.
	fetched    *token.Token
	fetchedFor *v1.AzureIdentity

	noObjectID map[string]bool // identities whose object ID could not be learned
	learnErr   error           // why, of the last one
}

// obtain runs steps until there is a token or a refusal. Each step calls identify again, because
// the pod may have changed while the request waited.
func (s *Server) obtain(ctx context.Context, q imds.TokenRequest, res *result, identify func(context.Context) (attest.Caller, error)) {
	t := tokenRequest{Server: s, q: q, res: res, selector: identity.Selector{ClientID: q.ClientID, ObjectID: q.ObjectID, ResourceID: q.ResourceID}}
	if t.allPending = s.pending; res.endpoint != "" {
		t.allPending = s.hostPending
	}
	res.resource = q.Resource
	for t.stepsLeft = maxSteps; t.stepsLeft > 0; t.stepsLeft-- {
		if t.step(ctx, identify) {
			break
		}
	}
	if t.waiting != nil {
		t.waiting.Remove()
		s.cfg.Metrics.WaitEnded(res.answerStatus(), time.Since(res.began))
	}
	if res.token == nil && res.refusal == nil && !res.excepted {
		res.refuse(reason.Unsteady.Refuse("what this pod may use is changing: try again"))
	}
}

// step decides about the request as things are now. It returns true when the request is done.
func (t *tokenRequest) step(ctx context.Context, identify func(context.Context) (attest.Caller, error)) bool {
	caller, err := identify(ctx)
	if err != nil {
		t.unknownCaller(ctx, err)
		return true
	}
	t.res.caller, t.res.namespace = caller, caller.Namespace
	d := t.cfg.Authorizer.Decide(caller.NamespacedName, t.selector, t.objectIDs())
	t.res.identity = d.Grant.Identity
	switch d.Kind {
	case authorize.Allow:
		if refusal := d.Grant.RefuseAudience(t.q.Resource); refusal != nil {
			t.refuse(refusal)
			return true
		}
		t.res.warning = d.Grant.WarnAudience(t.q.Resource)
		return t.fetch(ctx, d.Grant)
	case authorize.PlainIMDS:
		t.res.excepted, t.res.warning = true, d.Warning
		return true
	case authorize.Wait:
		return t.wait(ctx, d)
	case authorize.Learn:
		return t.learn(ctx, d.Unknown)
	default:
		t.refuse(d.Refusal)
		return true
	}
}

func (t *tokenRequest) refuse(r *reason.Refusal) {
	if t.learnErr != nil && r.Answer().Status == http.StatusBadRequest {
		// Clients take "Identity not found" as final. It is not while the source fails and an object
		// ID could not be learned.
		r = sourceRefusal(t.learnErr)
	}
	t.res.refuse(r)
}

// fetch gets the token of a grant. A token that was not in the cache is kept for the next step.
func (t *tokenRequest) fetch(ctx context.Context, grant identity.Grant) bool {
	id := grant.Identity
	if t.fetched != nil && token.Same(t.fetchedFor, id) {
		t.issue(t.fetched, grant)
		return true
	}
	got, outcome, err := t.cfg.Tokens.Get(ctx, t.forIdentity(id))
	t.cfg.Metrics.TokenCache(cacheOutcome(outcome))
	t.res.outcome = outcome
	switch {
	case err != nil && ctx.Err() != nil:
		t.res.gone()
		return true
	case err != nil:
		t.res.refuse(sourceRefusal(err))
		return true
	case outcome == token.Hit:
		t.issue(got, grant)
		return true
	}
	t.fetched, t.fetchedFor = got, id
	return false
}

// issue answers with a token. It refuses a token of one of the cluster's own identities that the
// policy does not name for the pod: only the token shows for sure that it is one.
func (t *tokenRequest) issue(got *token.Token, grant identity.Grant) {
	if got.OfCluster() != "" {
		if !grant.Named {
			t.res.refuse(sourceRefusal(got.RefuseCluster(grant.Identity)))
			return
		}
		if refusal := grant.OfCluster().RefuseAudience(t.q.Resource); refusal != nil {
			t.refuse(refusal)
			return
		}
	}
	t.res.token = got
}

func (t *tokenRequest) forIdentity(id *v1.AzureIdentity) token.Request {
	return token.Request{
		Identity: id, Resource: t.q.Resource, Revoked: t.q.Revoked,
		Caller: t.res.caller.Namespace + "/" + t.res.caller.Name,
	}
}

// objectIDs returns a function that returns the object ID in an identity's tokens. It is nil for
// requests that do not name an object ID, which are nearly all.
func (t *tokenRequest) objectIDs() func(*v1.AzureIdentity) string {
	if t.selector.ObjectID == "" {
		return nil
	}
	return func(id *v1.AzureIdentity) string {
		if learned := t.cfg.Tokens.ObjectID(token.Request{Identity: id}); learned != "" {
			return learned
		}
		if t.noObjectID[id.Namespace+"/"+id.Name] {
			return "\x00" // matches no request, and is not learned again
		}
		return ""
	}
}

// learn fetches tokens of identities for the object IDs in them. It fetches all at once, because a
// failing source takes seconds.
func (t *tokenRequest) learn(ctx context.Context, unknown []*v1.AzureIdentity) bool {
	if t.noObjectID == nil {
		t.noObjectID = map[string]bool{}
	}
	var group errgroup.Group
	for _, id := range unknown {
		t.noObjectID[id.Namespace+"/"+id.Name] = true
		group.Go(func() error {
			_, _, err := t.cfg.Tokens.Get(ctx, t.forIdentity(id))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.learnErr = err
	}
	if ctx.Err() != nil {
		t.res.gone()
		return true
	}
	return false
}

// wait waits until the decision may have changed. It returns true when the request is done: it may
// not wait, or not any longer.
func (t *tokenRequest) wait(ctx context.Context, d authorize.Decision) bool {
	if d.OnTheWay && t.cfg.RetryAfter {
		t.refuse(reason.AssigningRetry.Refuse("%s", d.Refusal.Message).After(20 * time.Second)) // as v1.8.17
		return true
	}
	left := d.Limit - time.Since(t.res.began)
	if left <= 0 {
		t.refuse(d.Refusal)
		return true
	}
	if t.waiting == nil {
		if t.waiting = t.allPending.Add(t.res.caller.NamespacedName); t.waiting == nil {
			t.tooManyPending()
			return true
		}
		t.cfg.Metrics.WaitBegan()
	}
	return t.awaitChange(ctx, d, left)
}

// awaitChange returns false after a change, and true when the request is done.
func (t *tokenRequest) awaitChange(ctx context.Context, d authorize.Decision, left time.Duration) bool {
	timer := time.NewTimer(left)
	defer timer.Stop()
	changed := d.Changed
	var paused <-chan time.Time
	if t.wakeups > maxSteps {
		// Hundreds of requests may wait for objects that change all the time.
		pause := time.NewTimer(coalesceTime)
		defer pause.Stop()
		changed, paused = nil, pause.C
	}
	for {
		select {
		case <-paused:
			changed, paused = d.Changed, nil
			continue
		case <-changed:
			t.stepsLeft++
			t.wakeups++
			return false
		case <-timer.C:
			t.refuse(d.Refusal)
		case <-t.waiting.Evicted():
			t.tooManyPending()
		case <-t.cfg.Stopping:
			t.unknownCaller(ctx, errStopping)
		case <-ctx.Done():
			t.res.gone()
		}
		return true
	}
}

func (t *tokenRequest) tooManyPending() {
	t.refuse(reason.TooManyWaiting.Refuse("too many requests of this pod or its namespace wait for their identities: try again later").After(5 * time.Second))
}

// unknownCaller refuses a request whose pod is not known. Clients must not take it as final.
func (t *tokenRequest) unknownCaller(ctx context.Context, err error) {
	why, message := reason.CallerUnknown, "the node agent does not know the pod that asks (yet): try again"
	switch {
	case ctx.Err() != nil:
		t.res.gone()
		return
	case errors.Is(err, errNotReady):
		why, message = reason.NotReady, "the node agent does not know the cluster yet: try again"
	case errors.Is(err, errStopping):
		why, message = reason.Stopping, "the node agent is being restarted: try again"
	case errors.Is(err, attest.ErrAmbiguous):
		why = reason.CallerAmbiguous
	case errors.Is(err, attest.ErrMoved):
		why = reason.CallerMoved
	case errors.Is(err, attest.ErrOutside):
		why, message = reason.CallerOutside, "the caller is in no pod of this node: ask from a container of the pod"
	}
	t.res.refuse(why.Refuse("%s", message).Because(err))
}

// sourceRefusal returns the refusal of a request whose source returned no token.
func sourceRefusal(err error) *reason.Refusal {
	if errors.Is(err, token.ErrBusy) {
		return reason.Busy.Refuse("too many token requests of this pod or its namespace wait for their source: try again later").After(time.Second)
	}
	if refusal, ok := errors.AsType[*reason.Refusal](err); ok {
		return refusal
	}
	return reason.SourceFailed.Refuse("the token could not be fetched: try again").Because(err)
}

// gone records that the client disconnected. The response is normally never read.
func (res *result) gone() {
	res.refuse(reason.ClientGone.Refuse("the client has left"))
	res.clientGone = true
}

func (res *result) answerStatus() int {
	switch {
	case res.clientGone:
		return statusGone
	case res.refusal != nil:
		return res.refusal.Answer().Status
	default:
		return http.StatusOK
	}
}
