// Package server answers the requests that pods send to the metadata service. For a token request
// it determines the pod (attest), the identity (authorize) and the token (token). Other requests
// are passed on to the real service or refused. imds parses requests and writes answers.
package server

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/audit"
	"github.com/podid-io/podid/internal/agent/authorize"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/agent/pending"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/reason"
)

// Attester determines the pod that a request comes from or is for.
type Attester interface {
	Caller(attest.Origin) (attest.Caller, error)
	Await(context.Context, attest.Origin) (attest.Caller, error)
	Named(types.NamespacedName) (attest.Caller, bool)
}

// Authorizer decides which identity a pod gets.
type Authorizer interface {
	Decide(types.NamespacedName, identity.Selector, func(*v1.AzureIdentity) string) authorize.Decision
}

// Tokens returns tokens and the object IDs in them.
type Tokens interface {
	Get(context.Context, token.Request) (*token.Token, token.Outcome, error)
	ObjectID(token.Request) string
}

// Limiter bounds the calls to the real service.
type Limiter interface {
	// Acquire waits for the caller's turn. It returns an error if ctx ends or the caller has too
	// many calls waiting. An error with the method RetryAfter() time.Duration means that no caller
	// may call the service for that time. release may be called more than once.
	Acquire(ctx context.Context, caller string) (release func(), err error)
	// StayAway stops all calls for a time.
	StayAway(time.Duration)
}

// Events reports refusals to the owners of pods.
type Events interface {
	Refused(pod types.NamespacedName, uid types.UID, reason, message string)
}

// Config is the configuration of a Server. All of it must be set, except where it says otherwise.
type Config struct {
	Attester   Attester
	Authorizer Authorizer
	Tokens     Tokens
	// Known is closed when Attester and Authorizer know the cluster.
	Known <-chan struct{}
	// Stopping is closed when the agent is about to stop. Pending requests are refused then, so
	// that their clients retry with the next agent.
	Stopping <-chan struct{}
	// Upstream is the host:port of the real service. TokenLimiter bounds its token requests, for
	// excepted pods, and OtherLimiter all other requests.
	Upstream                   string
	TokenLimiter, OtherLimiter Limiter
	// Probes serves /healthz and /readyz at the endpoint for the host.
	Probes http.Handler

	HeaderRequired bool // token requests need the Metadata header, as all others do
	BlockInstance  bool // refuse requests for the machine's metadata
	BlockAttested  bool // refuse requests for the machine's attested document
	AnyInterface   bool // a pod's network interface may change while it runs
	HostTokenTCP   bool // serve tokens to processes of the host over TCP, too
	AllowUserData  bool // pods may read the machine's user data
	RetryAfter     bool // answer 503 with Retry-After instead of waiting for an identity

	// WireRefusal returns why requests are refused whose callers are not proven (attest.Origin), nil
	// if they are not. It may be nil.
	WireRefusal func() *reason.Refusal

	// AttestLimit is how long a request waits for its pod to become known.
	AttestLimit time.Duration
	// MaxPending bounds the requests that wait for an identity, MaxPendingPerPod those of one pod.
	MaxPending, MaxPendingPerPod int

	// Audit and Events may be nil.
	Audit  *audit.Log
	Events Events

	Metrics *observe.Metrics
	Log     logr.Logger
}

// Server has the handlers for pods and for processes of the host.
type Server struct {
	cfg      Config
	upstream *upstream
	// pending are the pods' requests that wait for an identity, hostPending those of the host.
	pending, hostPending *pending.Requests
}

// New returns a server. It starts nothing.
func New(cfg Config) *Server {
	return &Server{
		cfg:         cfg,
		upstream:    newUpstream(cfg.Upstream),
		pending:     pending.New(cfg.MaxPending, cfg.MaxPendingPerPod),
		hostPending: pending.New(max(1, cfg.MaxPending/4), cfg.MaxPendingPerPod),
	}
}

// malformed reports whether a request was refused whichever pod sent it.
func malformed(r reason.Reason) bool { return r.Name() == reason.HeaderMissing.Name() }

// result is how a request was answered.
type result struct {
	status int
	// reason is why the request is refused, or what is remarkable about another answer.
	reason    reason.Reason
	refusal   *reason.Refusal // nil if another answer was written
	bodyless  bool            // the refusal has no body
	namespace string
	resource  string
	began     time.Time
	address   attest.Origin
	endpoint  string // empty for the pods' endpoint
	caller    attest.Caller
	identity  *v1.AzureIdentity
	token     *token.Token
	warning   *reason.Refusal // what an enforced policy would refuse
	outcome   token.Outcome
	excepted  bool // the pod gets the real service's token
	// clientGone means that the client disconnected, or that its pod has ended.
	clientGone bool
}

// refuse makes a refusal the answer.
func (res *result) refuse(r *reason.Refusal) { res.refusal, res.reason = r, r.Reason }

// ServePod answers a request of a pod. It must serve only the listener behind the redirect, whose
// connections' remote addresses are pods', and connections whose callers are proven.
func (s *Server) ServePod(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	route := imds.Classify(r.URL.EscapedPath())
	res := result{began: began, address: connections.OriginOf(r)}
	if refusal := s.precheck(route, w, r); refusal != nil {
		res.refuse(refusal)
	} else if refusal := s.wireRefusal(res.address); refusal != nil {
		res.refuse(refusal)
	} else if route.Kind == imds.Token {
		s.servePodToken(w, r, &res)
	} else {
		s.passOn(w, r, route, &res)
	}
	if c := connections.Of(r); c != nil && res.refusal != nil && !res.clientGone {
		caller, _ := s.known(c.Origin)
		c.Penalize(r.Context(), caller.Namespace, s.cfg.Stopping)
	}
	s.finish(w, r, route, &res)
}

func (s *Server) wireRefusal(from attest.Origin) *reason.Refusal {
	if s.cfg.WireRefusal == nil || from.Proven() {
		return nil
	}
	return s.cfg.WireRefusal()
}

// precheck refuses requests that are malformed. It checks the Metadata header before anything else
// that clients probe.
func (s *Server) precheck(route imds.Route, w http.ResponseWriter, r *http.Request) *reason.Refusal {
	if route.Kind != imds.Token && route.Kind != imds.PassThrough {
		return imds.NotFound()
	}
	headerNeeded := s.cfg.HeaderRequired || route.Kind != imds.Token
	if headerNeeded && !isTrue(r.Header[imds.MetadataHeader]) {
		return imds.HeaderMissing()
	}
	return checkGet(w, r)
}

func isTrue(values []string) bool {
	if len(values) != 1 {
		return false
	}
	// Nearly all clients send it in lower case.
	return values[0] == "true" || ascii.EqualFold(strings.TrimSpace(values[0]), "true")
}

// checkGet refuses requests that are not a GET, came through a proxy, or have too long a body.
func checkGet(w http.ResponseWriter, r *http.Request) *reason.Refusal {
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

// maxBody bounds the body that a GET should not have.
const maxBody = 64 << 10

// skipBody reads a request's body to its end. Otherwise net/http does not notice when the client
// disconnects.
func skipBody(w http.ResponseWriter, r *http.Request) *reason.Refusal {
	control := http.NewResponseController(w)
	// Writers of tests have no deadline.
	_ = control.SetReadDeadline(time.Now().Add(connections.BodyTime))
	n, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxBody+1))
	if err != nil || n > maxBody {
		w.Header().Set("Connection", "close")
		return reason.BodyTooLarge.Refuse("send no body with a GET")
	}
	_ = control.SetReadDeadline(time.Time{})
	return nil
}
