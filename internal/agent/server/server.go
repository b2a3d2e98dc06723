// Package server answers what pods ask of the metadata service. It puts the
// rooms of the agent in a row: which path (imds), which pod (attest), which
// identity (authorize), which token (token), and the reply (imds); what is not
// about tokens it passes on to the real service.
package server

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/observe"
)

// Attester tells who calls.
type Attester interface {
	Caller(attest.Origin) (attest.Caller, error)
	Await(context.Context, attest.Origin) (attest.Caller, error)
	Named(types.NamespacedName) (attest.Caller, bool)
}

// Authorizer tells which identity a caller gets.
type Authorizer interface {
	Decide(types.NamespacedName, identity.Selector, func(*v1.AzureIdentity) string) authorize.Decision
}

// Tokens has the tokens.
type Tokens interface {
	Get(context.Context, token.Request) (*token.Token, token.Outcome, error)
	ObjectID(token.Request) string
}

// Limiter lets calls to the real service begin, some at a time. Its error,
// unless ctx has ended, means that the caller has too many waiting; one with the
// method RetryAfter() time.Duration, that everybody has to stay away for so long.
//
// A second call of release does nothing.
type Limiter interface {
	Acquire(ctx context.Context, caller string) (release func(), err error)
	StayAway(time.Duration)
}

// Events tells the people around a pod that it was refused a token.
type Events interface {
	Refused(pod types.NamespacedName, uid types.UID, reason, message string)
}

// Config is what a Server needs. All of it must be set, but where it says so.
type Config struct {
	Attester   Attester
	Authorizer Authorizer
	Tokens     Tokens
	// Known closes when Attester and Authorizer know the cluster.
	Known <-chan struct{}
	// Stopping closes when the agent is about to end: requests held are sent
	// away, to come back to its successor.
	Stopping <-chan struct{}
	// Upstream is the real service, host:port. TokenLimiter guards its token
	// path, for excepted pods; OtherLimiter the others.
	Upstream                   string
	TokenLimiter, OtherLimiter Limiter
	// Probes answers /healthz and /readyz on the host's listener.
	Probes http.Handler

	HeaderRequired bool // of token requests; the other paths always need it
	BlockInstance  bool // keep what describes the machine from pods
	BlockAttested  bool // keep its signed document from pods
	AnyInterface   bool // a pod's network interface may be exchanged while it runs
	HostTokenTCP   bool // serve tokens to processes of the host over TCP, too
	AllowUserData  bool // let pods read the data that the machine was created with
	RetryAfter     bool // send a pod away while its identity is on the way

	// AttestLimit is how long a request waits for its pod to become known.
	AttestLimit time.Duration
	// Holds bounds the requests that wait for an identity, HoldsPerPod those of
	// one pod.
	Holds, HoldsPerPod int

	// Audit and Events take decisions; either may be nil.
	Audit  *Audit
	Events Events

	Metrics *observe.Metrics
	Log     logr.Logger
}

// Server serves the agent's two listeners.
type Server struct {
	cfg      Config
	upstream *upstream
	holds    *holds
	// hostHolds are the places of requests that processes of the host make for pods, so that they
	// take none of the pods' own.
	hostHolds *holds
}

// New returns a server. It starts nothing.
func New(cfg Config) *Server {
	return &Server{
		cfg:      cfg,
		upstream: newUpstream(cfg.Upstream),
		holds:    newHolds(cfg.Holds, cfg.HoldsPerPod),

		hostHolds: newHolds(max(1, cfg.Holds/4), cfg.HoldsPerPod),
	}
}

// reasonRejected is that of requests refused before anybody looks who asks.
const reasonRejected = "Rejected"

// reasonWouldBeRefused is that of requests granted while the policy only warns.
const reasonWouldBeRefused = "WouldBeRefused"

// result is how a request was answered, for logs and metrics.
type result struct {
	status            int
	reason            string // one word, "" for a token given
	namespace         string
	resource          string
	problem           *imds.Error // the answer, unless it has been written
	began             time.Time
	address           addr
	endpoint          endpoint
	caller            attest.Caller
	identity          *v1.AzureIdentity
	token             *token.Token
	detail            string            // for the log
	warning           *identity.Refusal // what an enforced policy would refuse
	outcome           token.Outcome
	plain, clientGone bool
}

// ServePod answers a request that came through the redirect. It serves the
// listener behind it and no other: the address a connection comes from is taken
// for the pod's.
func (s *Server) ServePod(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	route := imds.Classify(r.URL.EscapedPath())
	res := result{began: began, address: callerAddress(r)}
	if problem := s.precheck(route, w, r); problem != nil {
		res.problem, res.reason = problem, reasonRejected
	} else if route.Kind == imds.Token {
		s.servePodToken(w, r, &res)
	} else {
		s.passOn(w, r, route, &res)
	}
	if c := connectionOf(r); c != nil && res.problem != nil && !res.clientGone {
		caller, _ := s.known(c.from)
		c.brake.slow(r.Context(), c.from.Addr, caller.Namespace, s.cfg.Stopping)
	}
	s.finish(w, r, route, &res)
}

// precheck refuses what is wrong whoever asks. The Metadata header comes before
// all else on the paths that clients probe; the order of the rest is free.
func (s *Server) precheck(route imds.Route, w http.ResponseWriter, r *http.Request) *imds.Error {
	if route.Kind != imds.Token && route.Kind != imds.PassThrough {
		return imds.NotFound()
	}
	headerNeeded := s.cfg.HeaderRequired || route.Kind != imds.Token
	if headerNeeded && !isTrue(r.Header[imds.MetadataHeader]) {
		return imds.HeaderMissing()
	}
	return plainGet(w, r)
}

// plainGet refuses requests that are no GET, came through a proxy, or have a
// body too long to read over.
func plainGet(w http.ResponseWriter, r *http.Request) *imds.Error {
	if r.Method != http.MethodGet {
		return imds.MethodNotAllowed()
	}
	if _, forwarded := r.Header[imds.ForwardedHeader]; forwarded {
		return imds.Forwarded()
	}
	if r.ContentLength != 0 {
		return skipBody(w, r)
	}
	return nil
}

// Bounds of a body that a GET should not have.
const (
	maxBody  = 64 << 10
	bodyTime = 5 * time.Second
)

// skipBody reads a request's body to its end, because only then net/http
// notices a client that leaves.
func skipBody(w http.ResponseWriter, r *http.Request) *imds.Error {
	control := http.NewResponseController(w)
	// Not every writer has a deadline; the bound on the length holds anyway.
	_ = control.SetReadDeadline(time.Now().Add(bodyTime))
	n, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxBody+1))
	if err != nil || n > maxBody {
		w.Header().Set("Connection", "close")
		return &imds.Error{Status: http.StatusRequestEntityTooLarge, Code: "invalid_request", Description: "send no body with a GET"}
	}
	_ = control.SetReadDeadline(time.Time{})
	return nil
}

func isTrue(values []string) bool {
	if len(values) != 1 {
		return false
	}
	// "true" as nearly everybody sends it, first.
	return values[0] == "true" || equalTrue(values[0])
}

// finish writes what has not been written and takes the measurements.
func (s *Server) finish(w http.ResponseWriter, r *http.Request, route imds.Route, res *result) {
	if res.problem != nil {
		res.status = res.answerStatus()
		res.problem.WriteTo(w)
	}
	took := time.Since(res.began)
	s.cfg.Metrics.Operation(route.Label, res.status, res.namespace, res.resource, took)
	switch {
	case route.Kind == imds.Token, route.Kind == imds.HostToken:
		if res.reason == "" && res.warning != nil {
			res.reason, res.detail = reasonWouldBeRefused, res.warning.Message
		}
		s.cfg.Metrics.TokenRequest(res.status, res.reason)
		// Requests that say nothing worth hearing are counted only: most are
		// clients' probes, which ask on purpose without the header.
		if res.reason != reasonRejected {
			s.cfg.Audit.answered(r, route, res, took)
			s.tell(res)
		}
	case route.Attested && res.reason != reasonRejected:
		// Whoever has the document can pose as this machine. It is nobody's
		// grant, so the pod is not waited for.
		res.caller, _ = s.cfg.Attester.Caller(res.address)
		s.cfg.Audit.answered(r, route, res, took)
	}
}

// tell makes the refusals known that somebody can mend who looks after the pod:
// not those of pods that never asked for an identity, nor the agent's own
// troubles, nor what passes by itself. Nor what was asked on behalf of a pod: then the pod has done
// nothing, and another may have made the kubelet ask.
func (s *Server) tell(res *result) {
	if s.cfg.Events == nil || res.endpoint != "" || res.caller.Name == "" || res.clientGone {
		return
	}
	if res.problem == nil {
		if res.reason == reasonWouldBeRefused {
			s.cfg.Events.Refused(res.caller.NamespacedName, res.caller.UID, res.reason, "the policy warns and does not enforce yet: "+res.warning.Message)
		}
		return
	}
	switch res.reason {
	case string(identity.NoLabel), "BadRequest", "Excepted", "NotLoopback", "Busy", "Throttled", "TooManyWaiting",
		"Unsteady", "Stopping", "NotReady", "CallerUnknown", "CallerAmbiguous", "PodUnknown", "UpstreamFailed":
		return
	}
	message := res.problem.Description
	if res.detail != "" && res.problem.Status == http.StatusBadRequest {
		message += ": " + res.detail // what a client is told must be the service's own words
	}
	s.cfg.Events.Refused(res.caller.NamespacedName, res.caller.UID, res.reason, message)
}
