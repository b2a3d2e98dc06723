// What is recorded of a request: metrics, audit lines and Events.

package server

import (
	"net/http"
	"time"

	"github.com/podid-io/podid/internal/agent/audit"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/reason"
)

// finish writes a refusal, if that is the answer, and records the request.
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
		// Malformed requests are only counted: most are clients' probes, which omit the header on
		// purpose.
		if res.reason != reasonRejected {
			s.audit(r, route, res, took)
			s.emitEvent(res)
		}
	case route.Attested && res.reason != reasonRejected:
		// Its owner can claim to be this machine, so it is logged. No binding grants it, so the
		// request did not wait for the pod to become known.
		res.caller, _ = s.cfg.Attester.Caller(res.address)
		s.audit(r, route, res, took)
	}
}

func (s *Server) audit(r *http.Request, route imds.Route, res *result, took time.Duration) {
	if !s.cfg.Audit.Enabled() {
		return
	}
	e := audit.Entry{
		Time: res.began, Status: res.status, Reason: res.reason, Detail: res.detail, Caller: res.caller, Origin: res.address,
		Endpoint: res.endpoint, Identity: res.identity, Resource: res.resource,
		RequestID: r.Header.Get("X-Ms-Client-Request-Id"), Duration: took,
	}
	switch {
	case res.token != nil:
		e.Decision, e.Token = audit.Issued, outcomeText(res.outcome)
	case res.problem != nil:
		e.Decision, e.Message = audit.Refused, res.problem.Description
	default:
		e.Decision = audit.PassedOn
		if route.Kind == imds.PassThrough {
			e.Resource = route.Label
		}
	}
	s.cfg.Audit.Record(&e)
}

// outcomeText returns how a token was obtained, as audit lines have it.
func outcomeText(o token.Outcome) string {
	switch o {
	case token.Miss:
		return "minted"
	case token.Shared: // by a concurrent request
		return "shared"
	case token.Stale: // from the cache, because the source failed
		return "stale"
	default:
		return "cached"
	}
}

func cacheOutcome(o token.Outcome) observe.CacheOutcome {
	switch o {
	case token.Miss:
		return observe.CacheMiss
	case token.Shared:
		return observe.CacheShared
	case token.Stale:
		return observe.CacheStale
	case token.Refused:
		return observe.CacheRefused
	default:
		return observe.CacheHit
	}
}

// emitEvent reports a refusal to the pod's owner, if the owner can do something about it. It does
// not for
//   - pods that never asked for an identity,
//   - troubles of the agent, and those that pass by themselves,
//   - requests on behalf of a pod: another pod may have made the kubelet send them.
func (s *Server) emitEvent(res *result) {
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
	case reason.NoLabel.Name(), "BadRequest", "Excepted", "NotLoopback", "Busy", "Throttled", "TooManyWaiting",
		"Unsteady", "Stopping", "NotReady", "CallerUnknown", "CallerAmbiguous", "PodUnknown", "UpstreamFailed":
		return
	}
	message := res.problem.Description
	if res.detail != "" && res.problem.Status == http.StatusBadRequest {
		message += ": " + res.detail // the client gets the metadata service's own words instead
	}
	s.cfg.Events.Refused(res.caller.NamespacedName, res.caller.UID, res.reason, message)
}
