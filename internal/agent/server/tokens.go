// From a token request to its answer.

package server

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/identity"
)

// statusGone stands in the metrics for a client that left, as nginx has it.
const statusGone = 499

// maxRounds bounds how often one request is decided about anew without having
// waited; more means that the grants change faster than tokens come. Rounds that
// waited do not count: their own limit bounds them, and a pod that is starting
// changes often.
const maxRounds = 8

// restTime is the pause between looks of a request that changes have woken more than maxRounds times.
const restTime = 100 * time.Millisecond

func (s *Server) servePodToken(w http.ResponseWriter, r *http.Request, res *result) {
	q, problem := imds.ParseTokenRequest(r.URL.RawQuery)
	if problem != nil {
		res.problem, res.reason = problem, "BadRequest"
		return
	}
	s.obtain(r.Context(), q, res, func(ctx context.Context) (attest.Caller, error) {
		return s.attest(ctx, res.address, res.began)
	})
	switch {
	case res.plain:
		s.plainToken(w, r, res)
	case res.token == nil:
	case s.callerGone(r, res.began):
		res.token = nil
		res.callerGone(w)
	default:
		writeToken(w, res)
	}
}

// atOnce is the time in which no pod ends and another gets its address: removing a pod's network
// and making another one takes a network plug-in tens of milliseconds.
const atOnce = 5 * time.Millisecond

// callerGone reports whether the network interface that the connection came in by is gone, and with
// it the pod's network, since the request was read. The pod's address may already belong to another
// pod, which would then receive what is written. The API server may tell of the pod's end much
// later. The kernel is asked only about requests that were not answered at once.
func (s *Server) callerGone(r *http.Request, began time.Time) bool {
	c := connectionOf(r)
	return c != nil && !s.cfg.AnyInterface && time.Since(began) > atOnce && linkGone(c.Conn, c.from.Link)
}

// callerGone records that the caller ended before its answer. Nothing of the answer is written.
func (res *result) callerGone(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	res.refuse(http.StatusInternalServerError, "CallerGone", "server_error", "the pod that asked has ended", "")
	res.clientGone = true
}

// attest tells who calls, and waits a little for one who is not known yet.
func (s *Server) attest(ctx context.Context, address addr, began time.Time) (attest.Caller, error) {
	select {
	case <-s.cfg.Known:
		if caller, err := s.cfg.Attester.Caller(address); err == nil {
			return caller, nil
		}
	default:
	}
	ctx, cancel := context.WithDeadline(ctx, began.Add(s.cfg.AttestLimit))
	defer cancel()
	select {
	case <-s.cfg.Known:
		return s.cfg.Attester.Await(ctx, address)
	case <-s.cfg.Stopping:
		return attest.Caller{}, errStopping
	case <-ctx.Done():
		return attest.Caller{}, errNotKnown
	}
}

var (
	errNotKnown = errors.New("the API server has not told the agent about the cluster yet")
	errStopping = errors.New("the agent is being restarted")
)

// attempt is one request on its way to a token.
type attempt struct {
	*Server
	q   imds.TokenRequest
	sel identity.Selector
	res *result
	// places are those for requests that are held.
	places *holds
	hold   *hold // nil while not held

	rounds int // left
	woken  int // how often a change ended a wait

	// A token that was fetched, and whom for: it goes out only if the decision
	// is still the same afterwards.
	got    *token.Token
	gotFor *v1.AzureIdentity

	tried   map[string]bool // identities whose object id could not be learned
	problem error           // of the last try
}

// obtain decides until there is a token or a refusal. who is asked again in
// each round, because what was true when the request came may have changed
// while it waited.
func (s *Server) obtain(ctx context.Context, q imds.TokenRequest, res *result, who func(context.Context) (attest.Caller, error)) {
	a := attempt{Server: s, q: q, res: res, sel: identity.Selector{ClientID: q.ClientID, ObjectID: q.ObjectID, ResourceID: q.ResourceID}}
	if a.places = s.holds; res.endpoint != "" {
		a.places = s.hostHolds
	}
	res.resource = q.Resource
	for a.rounds = maxRounds; a.rounds > 0; a.rounds-- {
		if a.round(ctx, who) {
			break
		}
	}
	if a.hold != nil {
		a.hold.release()
		s.cfg.Metrics.WaitEnded(res.answerStatus(), time.Since(res.began))
	}
	if res.token == nil && res.problem == nil && !res.plain {
		res.refuse(http.StatusInternalServerError, "Unsteady", "server_error", "what this pod may use is changing: try again", "")
	}
}

// round is one look at caller and grants; true ends the request.
func (a *attempt) round(ctx context.Context, who func(context.Context) (attest.Caller, error)) bool {
	caller, err := who(ctx)
	if err != nil {
		a.unknown(ctx, err)
		return true
	}
	a.res.caller, a.res.namespace = caller, caller.Namespace
	d := a.cfg.Authorizer.Decide(caller.NamespacedName, a.sel, a.objectIDs())
	a.res.identity = d.Grant.Identity
	switch d.Kind {
	case authorize.Allow:
		if refusal, refused := authorize.Audience(d.Grant, a.q.Resource); refused {
			a.refuse(refusal)
			return true
		}
		a.res.warning = d.Grant.WarnAudience(a.q.Resource)
		return a.fetch(ctx, d.Grant)
	case authorize.PlainIMDS:
		a.res.plain, a.res.warning = true, d.Warning
		return true
	case authorize.Wait:
		return a.wait(ctx, d)
	case authorize.Learn:
		return a.learn(ctx, d.Unknown)
	default:
		a.refuse(d.Refusal)
		return true
	}
}

func (a *attempt) refuse(r authorize.Refusal) {
	if a.problem != nil && r.Status == http.StatusBadRequest {
		// "Identity not found" is final to clients; with an object id that
		// could not be learned because the source has trouble, it is not.
		a.failed(a.problem)
		return
	}
	a.res.refuse(r.Status, r.Reason, r.Code, r.Message, r.Detail)
}

// fetch gets the token. One that had to be fetched is kept for the next round.
func (a *attempt) fetch(ctx context.Context, grant identity.Grant) bool {
	id := grant.Identity
	if a.got != nil && token.Same(a.gotFor, id) {
		a.give(a.got, grant)
		return true
	}
	t, outcome, err := a.cfg.Tokens.Get(ctx, a.request(id))
	a.cfg.Metrics.TokenCache(observeOutcome(outcome))
	a.res.outcome = outcome
	switch {
	case err != nil && ctx.Err() != nil:
		a.res.gone()
		return true
	case err != nil:
		a.failed(err)
		return true
	case outcome == token.Hit:
		a.give(t, grant)
		return true
	}
	a.got, a.gotFor = t, id
	return false
}

// give answers with a token that the cache has, unless it is one of the cluster's own identities
// that the policy does not name for the pod: only the token shows that for sure.
func (a *attempt) give(t *token.Token, grant identity.Grant) {
	if t.OfCluster() != "" {
		if !grant.Named {
			a.failed(token.RefuseCluster(t, grant.Identity))
			return
		}
		if refusal, refused := authorize.Audience(grant.OfCluster(), a.q.Resource); refused {
			a.refuse(refusal)
			return
		}
	}
	a.res.token = t
}

func (a *attempt) request(id *v1.AzureIdentity) token.Request {
	return token.Request{
		Identity: id, Resource: a.q.Resource, Revoked: a.q.Revoked,
		Caller: a.res.caller.Namespace + "/" + a.res.caller.Name,
	}
}

// objectIDs tells what tokens said about their identities' object ids; nil for
// the requests that do not ask by object id, which are nearly all.
func (a *attempt) objectIDs() func(*v1.AzureIdentity) string {
	if a.sel.ObjectID == "" {
		return nil
	}
	return func(id *v1.AzureIdentity) string {
		if learned := a.cfg.Tokens.ObjectID(token.Request{Identity: id}); learned != "" {
			return learned
		}
		if a.tried[id.Namespace+"/"+id.Name] {
			return "\x00" // no reason to learn it again, and what no request can ask for
		}
		return ""
	}
}

// learn fetches tokens of identities to see their object ids, all at the same
// time: one that cannot be had takes seconds.
func (a *attempt) learn(ctx context.Context, unknown []*v1.AzureIdentity) bool {
	if a.tried == nil {
		a.tried = map[string]bool{}
	}
	var group errgroup.Group
	for _, id := range unknown {
		a.tried[id.Namespace+"/"+id.Name] = true
		group.Go(func() error {
			_, _, err := a.cfg.Tokens.Get(ctx, a.request(id))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		a.problem = err
	}
	if ctx.Err() != nil {
		a.res.gone()
		return true
	}
	return false
}

// wait holds the request until the decision may have changed; true when that
// is not worth it, or took too long.
func (a *attempt) wait(ctx context.Context, d authorize.Decision) bool {
	if d.OnTheWay && a.cfg.RetryAfter {
		a.res.refuse(http.StatusServiceUnavailable, d.Refusal.Reason, d.Refusal.Code, d.Refusal.Message, "")
		a.res.problem.RetryAfter = 20 * time.Second // what v1.8.17 promises with the flag
		return true
	}
	left := d.Limit - time.Since(a.res.began)
	if left <= 0 {
		a.refuse(d.Refusal)
		return true
	}
	if a.hold == nil {
		if a.hold = a.places.take(a.res.caller.NamespacedName); a.hold == nil {
			a.tooManyWaiting()
			return true
		}
		a.cfg.Metrics.WaitBegan()
	}
	return a.sleep(ctx, d, left)
}

// sleep waits for a change, which returns false, or for the end of the request.
func (a *attempt) sleep(ctx context.Context, d authorize.Decision, left time.Duration) bool {
	timer := time.NewTimer(left)
	defer timer.Stop()
	changed := d.Changed
	var rested <-chan time.Time
	if a.woken > maxRounds {
		// Hundreds of requests may wait for objects that change all the time.
		rest := time.NewTimer(restTime)
		defer rest.Stop()
		changed, rested = nil, rest.C
	}
	for {
		select {
		case <-rested:
			changed, rested = d.Changed, nil
			continue
		case <-changed:
			a.rounds++
			a.woken++
			return false
		case <-timer.C:
			a.refuse(d.Refusal)
		case <-a.hold.lost():
			a.tooManyWaiting()
		case <-a.cfg.Stopping:
			a.unknown(ctx, errStopping)
		case <-ctx.Done():
			a.res.gone()
		}
		return true
	}
}

func (a *attempt) tooManyWaiting() {
	a.res.refuse(http.StatusTooManyRequests, "TooManyWaiting", "too_many_requests",
		"too many requests of this pod or its namespace wait for their identities: try again later", "")
	a.res.problem.RetryAfter = 5 * time.Second
}

// unknown answers a request whose caller cannot be told. It is never final: the
// reason may be the agent's own.
func (a *attempt) unknown(ctx context.Context, err error) {
	reason := "CallerUnknown"
	message := "the node agent does not know the pod that asks (yet): try again"
	switch {
	case ctx.Err() != nil:
		a.res.gone()
		return
	case errors.Is(err, errNotKnown):
		reason, message = "NotReady", "the node agent does not know the cluster yet: try again"
	case errors.Is(err, errStopping):
		reason, message = "Stopping", "the node agent is being restarted: try again"
	case errors.Is(err, attest.ErrAmbiguous):
		reason = "CallerAmbiguous"
	case errors.Is(err, attest.ErrMoved):
		reason = "CallerMoved"
	}
	a.res.refuse(http.StatusInternalServerError, reason, "caller_unknown", message, err.Error())
}

// failed answers a request for which the source has no token.
func (a *attempt) failed(err error) {
	var f *token.Failure
	switch {
	case errors.Is(err, token.ErrBusy):
		a.res.refuse(http.StatusTooManyRequests, "Busy", "too_many_requests", "too many token requests of this pod or its namespace wait for their source: try again later", "")
		a.res.problem.RetryAfter = time.Second
	case errors.As(err, &f):
		a.res.refuse(f.Status, cmp.Or(f.Reason, "SourceFailed"), f.Code, f.Message, f.Error())
		a.res.problem.RetryAfter = f.RetryAfter
	default:
		a.res.refuse(http.StatusInternalServerError, "SourceFailed", "server_error", "the token could not be fetched: try again", err.Error())
	}
}

func (res *result) refuse(status int, reason, code, message, detail string) {
	res.reason, res.detail = reason, detail
	res.problem = &imds.Error{Status: status, Code: code, Description: message}
}

// gone takes that the client has left. The answer is for the unlikely case that
// somebody reads it.
func (res *result) gone() {
	res.refuse(http.StatusInternalServerError, "ClientGone", "server_error", "the client has left", "")
	res.clientGone = true
}

func (res *result) answerStatus() int {
	switch {
	case res.clientGone:
		return statusGone
	case res.problem != nil:
		return res.problem.Status
	default:
		return http.StatusOK
	}
}
