package server

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/reason"
)

// event happens while a request waits.
type event struct {
	after time.Duration
	do    func(*timeless)
}

// situation is a request, what happens while it waits, and its answer.
type situation struct {
	name     string
	settings func(*settings)
	world    func(*timeless)
	query    string // after api-version and resource, or the whole query if it begins with ?
	path     string // instead of the token path
	headers  []string
	events   []event
	leaves   time.Duration // when the client disconnects, if it does

	status     int // 0: the client left
	after      time.Duration
	says       string
	retryAfter string
}

const web = "10.9.0.2"

func present(w *timeless) { w.pod("web", web) }

func bound(w *timeless) { present(w); w.bind("web", "one") }

func created(w *timeless) { bound(w); w.state("web", "one", v1.StateCreated, "", "") }

func ready(w *timeless) { bound(w); arrives(w) }

func arrives(w *timeless) { w.state("web", "one", v1.StateAssigned, "", "") }

func withRetryAfter(s *settings) { s.server.RetryAfter = true }

func ill(status int, code, message string, wait time.Duration) func(*timeless) {
	return func(w *timeless) {
		ready(w)
		w.source.fall(&reason.Refusal{Reason: reason.SourceFailed, Relayed: reason.Answer{Status: status, OAuth: code}, Message: message, RetryAfter: wait}, false)
	}
}

// refused are requests that are refused at once, whichever pod sends them.
func refused() []situation {
	good := "?api-version=2018-02-01&resource=r"
	return []situation{
		{name: "no Metadata header", world: ready, headers: []string{"Metadata", ""}, status: 400, says: "Required metadata header not specified"},
		{name: "no header, pod unknown, no query", headers: []string{"Metadata", ""}, query: "?", status: 400, says: "Required metadata header not specified"},
		{name: "header in another case", world: ready, headers: []string{"Metadata", "TRUE"}, status: 200},
		{name: "through a proxy", world: ready, headers: []string{"X-Forwarded-For", "1.2.3.4"}, status: 400, says: "X-Forwarded-For"},
		{name: "two selectors", world: ready, query: "&client_id=a&object_id=b", status: 400, says: "only one"},
		{name: "a parameter twice", world: ready, query: "&resource=x", status: 400, says: "more than once"},
		{name: "no resource", world: ready, query: "?api-version=2018-02-01", status: 400, says: "resource"},
		{name: "no api-version", world: ready, query: "?resource=r", status: 400, says: "api-version"},
		{name: "other identity path", world: ready, path: "/metadata/identity/issuecredential" + good, status: 404},
		{name: "anything else", world: ready, path: "/latest/meta-data", status: 404},
		{name: "instance, blocked", world: ready, settings: func(s *settings) { s.server.BlockInstance = true }, path: "/metadata/instance" + good, status: 403},
	}
}

// undecided are requests for pods and identities that do not exist, or not yet.
func undecided() []situation {
	return []situation{
		{name: "pod unknown", status: 500, after: 4 * time.Second, says: "try again"},
		{name: "pod known after a while", events: []event{{1500 * time.Millisecond, ready}}, status: 200, after: 1500 * time.Millisecond},
		{name: "two pods of one address", world: func(w *timeless) { ready(w); w.pod("other", web) }, status: 500, after: 4 * time.Second, says: "try again"},
		{name: "pod finished", world: func(w *timeless) {
			ready(w)
			w.pod("web", web, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		}, status: 500, after: 4 * time.Second},
		{name: "cluster unknown", settings: func(s *settings) { s.unknown = true }, world: ready, status: 500, after: 4 * time.Second, says: "cluster"},
		{
			name: "cluster known after a while", settings: func(s *settings) { s.unknown = true }, world: ready,
			events: []event{{3 * time.Second, func(w *timeless) { close(w.known) }}}, status: 200, after: 3 * time.Second,
		},
		{name: "no label", world: func(w *timeless) { w.pod("web", web, noLabel) }, status: 400, says: "Identity not found"},
		{name: "another identity", world: ready, query: "&client_id=another", status: 400, says: "Identity not found"},
		{name: "foreign object id", world: ready, query: "&object_id=another", status: 400, says: "Identity not found"},
		{name: "own object id", world: ready, query: "&object_id=" + objectID("one"), status: 200},
		{name: "own resource id, other case", world: ready, query: "&msi_res_id=" + url.QueryEscape(strings.ToUpper(resourceID("one"))), status: 200},
		{name: "no binding", world: present, status: 404, after: 8 * time.Second, says: "AzureIdentityBinding"},
		{name: "no binding, with the flag", settings: withRetryAfter, world: present, status: 404, after: 8 * time.Second},
		{
			name: "bound in time", world: func(w *timeless) { present(w); arrives(w) },
			events: []event{{7 * time.Second, func(w *timeless) { w.bind("web", "one") }}}, status: 200, after: 7 * time.Second,
		},
		{name: "another, one on the way", world: created, query: "&client_id=another", status: 400, says: "Identity not found"},
		{
			name: "quarantined", world: func(w *timeless) { bound(w); w.state("web", "one", v1.StateCreated, "IdentityNotFound", "create it") },
			status: 403, says: "create it",
		},
		{name: "quarantined meanwhile", world: created, events: []event{{20 * time.Second, func(w *timeless) {
			w.state("web", "one", v1.StateCreated, "IdentityNotFound", "create it")
		}}}, status: 403, after: 20 * time.Second},
	}
}

// held are requests that wait for an identity.
func held() []situation {
	return []situation{
		{name: "on its way for too long", world: created, status: 404, after: 100 * time.Second, says: "being assigned"},
		{name: "MIC has not written", world: bound, status: 404, after: 100 * time.Second, says: "MIC"},
		{name: "arrives", world: created, events: []event{{57 * time.Second, arrives}}, status: 200, after: 57 * time.Second},
		{name: "written, then arrives", world: bound, events: []event{
			{3 * time.Second, created}, {40 * time.Second, arrives},
		}, status: 200, after: 40 * time.Second},
		{name: "other deadline", settings: func(s *settings) { s.authorize.ArrivalLimit = 12 * time.Second }, world: created, status: 404, after: 12 * time.Second},
		{name: "no deadline", settings: func(s *settings) { s.authorize.ArrivalLimit = 0 }, world: created, status: 404},
		{name: "with the flag", settings: withRetryAfter, world: created, status: 503, retryAfter: "20"},
		{name: "not written, with the flag", settings: withRetryAfter, world: bound, status: 503, retryAfter: "20"},
		{name: "client leaves", world: created, leaves: 10 * time.Second, after: 10 * time.Second},
		{
			name: "agent stops", world: created, events: []event{{6 * time.Second, func(w *timeless) { close(w.stopping) }}},
			status: 500, after: 6 * time.Second, says: "restarted",
		},
		{name: "agent stops, no binding", world: present, events: []event{{time.Second, func(w *timeless) { close(w.stopping) }}}, status: 500, after: time.Second},
		{name: "pod goes meanwhile", world: created, events: []event{{5 * time.Second, func(w *timeless) {
			w.attest.Remove(nameOf("web"))
			w.authorize.RemovePod(nameOf("web"))
		}}}, status: 500, after: 5 * time.Second},
	}
}

// sickness are requests whose source has no token.
func sickness() []situation {
	return []situation{
		{name: "secret wrong", world: ill(403, "invalid_client", "the secret is wrong: correct it", 0), status: 403, says: "correct it"},
		{name: "never the word", world: ill(403, "invalid_client", "the host is unreachable", 0), status: 403, says: "not reachable"},
		{name: "invalid resource", world: ill(400, "invalid_resource", "no such resource", 0), status: 400, says: "no such resource"},
		{name: "trouble", world: ill(500, "metadata_service_trouble", "try again", 0), status: 500},
		{name: "throttled", world: ill(429, "too_many_requests", "try again", 7*time.Second), status: 429, retryAfter: "7"},
		{name: "hangs", world: func(w *timeless) { ready(w); w.source.fall(nil, true) }, status: 500, after: 16 * time.Second},
		{name: "trouble, token held", world: func(w *timeless) {
			ready(w)
			warm(w)
			w.source.fall(reason.SourceFailed.Refuse("failed"), false)
		}, status: 200},
		{name: "hangs, token held", world: func(w *timeless) {
			ready(w)
			warm(w)
			w.source.fall(nil, true)
			<-time.After(58 * time.Minute) // the token expires in two minutes
			_, _, _ = w.ask(context.Background(), web, tokenQuery("r"))
		}, status: 200},
	}
}

func warm(w *timeless) {
	if got, _, err := w.ask(context.Background(), web, tokenQuery("r")); err != nil || got.status != http.StatusOK {
		w.t.Fatalf("no token to begin with: %v %v", got, err)
	}
}

func TestSituations(t *testing.T) {
	for _, group := range [][]situation{refused(), undecided(), held(), sickness()} {
		for _, s := range group {
			t.Run(s.name, func(t *testing.T) { synctest.Test(t, s.check) })
		}
	}
}

func (s situation) check(t *testing.T) {
	w := newTimeless(t, s.settings)
	if s.world != nil {
		s.world(w)
	}
	ctx := t.Context()
	if s.leaves > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.leaves)
		defer cancel()
	}
	for _, e := range s.events {
		time.AfterFunc(e.after, func() { e.do(w) })
	}
	got, took, err := w.ask(ctx, web, s.target(), s.headers...)
	if err != nil && s.status != 0 || took.Round(time.Millisecond) != s.after || got.status != s.status {
		t.Fatalf("got %d %s after %v (%v), want %d after %v", got.status, got.body, took, err, s.status, s.after)
	}
	if !strings.Contains(got.body, s.says) || got.header.Get("Retry-After") != s.retryAfter {
		t.Errorf("got %s, Retry-After %q; want %q, %q", got.body, got.header.Get("Retry-After"), s.says, s.retryAfter)
	}
	if s.status == http.StatusForbidden && strings.Contains(got.body, "unreachable") {
		t.Errorf("the word: %s", got.body)
	}
	synctest.Wait()
	if n := w.server.pending.Len(); n != 0 {
		t.Errorf("%d places are still held", n)
	}
}

func (s situation) target() string {
	switch {
	case s.path != "":
		return s.path
	case strings.HasPrefix(s.query, "?"):
		return imds.TokenPath + s.query
	default:
		return tokenQuery("r") + s.query
	}
}
