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
	if res.refusal != nil {
		res.status = res.answerStatus()
		imds.WriteRefusal(w, res.refusal, res.bodyless)
	}
	took := time.Since(res.began)
	s.cfg.Metrics.Operation(route.Label, res.status, res.namespace, res.resource, took)
	switch {
	case route.Kind == imds.Token, route.Kind == imds.HostToken:
		if res.reason == reason.None && res.warning != nil {
			res.reason = reason.WouldBeRefused
		}
		s.cfg.Metrics.TokenRequest(res.status, res.reason.Name())
		// Malformed requests are only counted: most are clients' probes, which omit the header on
		// purpose.
		if !malformed(res.reason) {
			s.audit(r, route, res, took)
			s.emitEvent(res)
		}
	case route.Attested && !malformed(res.reason):
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
		Time: res.began, Status: res.status, Reason: res.reason, Caller: res.caller, Origin: res.address,
		Endpoint: res.endpoint, Identity: res.identity, Resource: res.resource,
		RequestID: r.Header.Get("X-Ms-Client-Request-Id"), Duration: took,
	}
	if res.reason == reason.WouldBeRefused {
		e.Detail = res.warning.Text()
	}
	switch {
	case res.token != nil:
		e.Decision, e.Token = audit.Issued, outcomeText(res.outcome)
	case res.refusal != nil:
		e.Decision, e.Message, e.Detail = audit.Refused, res.refusal.Message, res.refusal.Detail()
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
// not for requests on behalf of a pod: another pod may have made the kubelet send them.
func (s *Server) emitEvent(res *result) {
	if s.cfg.Events == nil || res.endpoint != "" || res.caller.Name == "" || res.clientGone || !res.reason.Event() {
		return
	}
	var text string
	switch {
	case res.refusal == nil:
		text = "the policy warns and does not enforce yet: " + res.warning.Text()
	case res.refusal.Cause != nil && res.refusal.Answer().Status == http.StatusBadRequest:
		// The client gets the metadata service's own words instead.
		text = res.reason.Text(res.refusal.Error())
	default:
		text = res.refusal.Text()
	}
	s.cfg.Events.Refused(res.caller.NamespacedName, res.caller.UID, res.reason.Name(), text)
}
