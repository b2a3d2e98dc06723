package imds

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/agent/fair"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/agent/token/source/sourcetest"
	"github.com/podid-io/podid/internal/reason"
)

// script answers requests in order and repeats the last answer.
type script struct {
	answers []any // status and body "503 {...}", or an error, or a duration to hang
	seen    []*http.Request
	times   []time.Time
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.seen = append(s.seen, r)
	s.times = append(s.times, time.Now())
	answer := s.answers[min(len(s.seen), len(s.answers))-1]
	switch a := answer.(type) {
	case error:
		return nil, a
	case time.Duration:
		select {
		case <-time.After(a):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		return nil, errors.New("hung")
	}
	text := fmt.Sprint(answer)
	status, body, _ := strings.Cut(text, " ")
	code := 0
	_, _ = fmt.Sscan(status, &code)
	h := http.Header{}
	if wait, rest, ok := strings.Cut(body, "|"); ok {
		h.Set("Retry-After", wait)
		body = rest
	}
	return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func newScript(answers ...any) (*Source, *script, *sourcetest.Meter) {
	s, m := &script{answers: answers}, &sourcetest.Meter{}
	return New(Config{
		Address: "169.254.169.254:80", Transport: s,
		Calls: source.Calls{Limiter: sourcetest.Limiter{}, Meter: m, Operation: "op", UserAgent: "podid-nmi/test"},
	}), s, m
}

func good(now time.Time) string {
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"oid":"o-1","nbf":%d,"exp":%d}`, now.Unix(), now.Unix()+3600))
	return fmt.Sprintf(`200 {"access_token":"h.%s.s","expires_on":"%d","expires_in":"3600","resource":"x"}`, claims, now.Unix()+3600)
}

func TestIMDSRequest(t *testing.T) {
	source, s, m := newScript(good(time.Now()))
	r := sourcetest.Request("a", "https://x/?&=#ä")
	got, err := source.Token(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got.ObjectID != "o-1" || m.Successes != 1 || m.Errors != 0 {
		t.Errorf("object id %q, meter %d %d", got.ObjectID, m.Successes, m.Errors)
	}
	r.Identity.Spec.ResourceID = "" // as in managed mode
	if _, err := source.Token(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, r := range s.seen {
		if r.Method != http.MethodGet || r.Header.Get("Metadata") != "true" {
			t.Errorf("%s with %v", r.Method, r.Header)
		}
		urls = append(urls, r.URL.String())
	}
	const start = "http://169.254.169.254:80/metadata/identity/oauth2/token?api-version=2018-02-01&"
	want := []string{
		start + "msi_res_id=%2Fr%2Fa&resource=https%3A%2F%2Fx%2F%3F%26%3D%23%C3%A4",
		start + "client_id=Client-a&resource=https%3A%2F%2Fx%2F%3F%26%3D%23%C3%A4",
	}
	if diff := cmp.Diff(want, urls); diff != "" {
		t.Error(diff)
	}
}

func TestIMDSFaults(t *testing.T) {
	const hang = time.Hour
	none := `400 {"error":"invalid_request","error_description":"Identity not found"}`
	tests := []struct {
		name    string
		answers []any
		status  int // 0: a token
		calls   int
		took    time.Duration // at most, of 9 s
		retry   time.Duration
	}{
		{name: "at once", answers: []any{"good"}, calls: 1},
		{name: "500 once", answers: []any{"500 {}", "good"}, calls: 2, took: 200 * time.Millisecond},
		{name: "410, 404, refused", answers: []any{"410 {}", "404 {}", errors.New("refused"), "good"}, calls: 4, took: 1400 * time.Millisecond},
		{name: "not there yet", answers: []any{none, none, "good"}, calls: 3, took: 600 * time.Millisecond},
		{name: "never there", answers: []any{none}, status: 404, calls: 6, took: 6200 * time.Millisecond},
		{name: "always 500", answers: []any{"500 {}"}, status: 500, calls: 6, took: 6200 * time.Millisecond},
		{name: "hangs", answers: []any{hang}, status: 500, calls: 2, took: 9 * time.Second},
		{name: "hangs once", answers: []any{hang, "good"}, calls: 2, took: 5200 * time.Millisecond},
		{name: "429, a little", answers: []any{"429 2|{}", "good"}, calls: 2, took: 2 * time.Second},
		{name: "429, long", answers: []any{"429 60|{}"}, status: 429, calls: 1, retry: 60 * time.Second},
		{name: "429, too long", answers: []any{"429 3|{}"}, status: 429, calls: 1, retry: 3 * time.Second},
		{name: "429, unsaid", answers: []any{"429 {}"}, status: 429, calls: 6, took: 6200 * time.Millisecond},
		{name: "no JSON", answers: []any{"200 <html>", "good"}, calls: 2, took: 200 * time.Millisecond},
		{name: "no token", answers: []any{`200 {"expires_on":"99999999999"}`}, status: 500, calls: 6, took: 6200 * time.Millisecond},
		{name: "expired", answers: []any{`200 {"access_token":"x","expires_on":"5"}`}, status: 500, calls: 6, took: 6200 * time.Millisecond},
		{name: "final", answers: []any{`400 {"error":"invalid_resource","error_description":"AADSTS50001"}`}, status: 400, calls: 1},
		{name: "400, not its own words", answers: []any{"400 <html>", "good"}, calls: 2, took: 200 * time.Millisecond},
		{name: "408", answers: []any{`408 {"error":"timeout"}`, "good"}, calls: 2, took: 200 * time.Millisecond},
		{name: "redirected", answers: []any{"302 {}"}, status: 500, calls: 6, took: 6200 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for i, a := range tt.answers {
					if a == "good" {
						tt.answers[i] = good(time.Now())
					}
				}
				source, s, _ := newScript(tt.answers...)
				ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
				defer cancel()
				began := time.Now()
				_, err := source.Token(ctx, sourcetest.Request("a", "x"))
				var f *reason.Refusal
				switch {
				case tt.status == 0 && err != nil:
					t.Error(err)
				case tt.status != 0 && (!errors.As(err, &f) || f.Answer().Status != tt.status || f.RetryAfter != tt.retry):
					t.Errorf("got %+v, want %d", err, tt.status)
				}
				if took := time.Since(began); took > tt.took || len(s.seen) != tt.calls {
					t.Errorf("%d calls in %v, want %d in %v", len(s.seen), took, tt.calls, tt.took)
				}
			})
		})
	}
}

func TestIMDSStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, s, _ := newScript("429 60|{}", good(time.Now()))
		source.cfg.Limiter = fair.New(fair.Config{Rate: 15, Burst: 5, Concurrent: 5, PerCaller: 2, Waiting: 9, WaitingPerCaller: 9})
		get := func() *reason.Refusal {
			ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
			defer cancel()
			_, err := source.Token(ctx, sourcetest.Request("a", "x"))
			var f *reason.Refusal
			_ = errors.As(err, &f)
			return f
		}
		if f := get(); f == nil || f.Answer().Status != 429 {
			t.Fatalf("got %v", f)
		}
		<-time.After(20 * time.Second)
		if f := get(); f == nil || f.RetryAfter != 40*time.Second || len(s.seen) != 1 {
			t.Fatalf("got %+v after %d calls", f, len(s.seen))
		}
		<-time.After(41 * time.Second)
		if f := get(); f != nil {
			t.Fatalf("got %v", f)
		}
	})
}

func TestIMDSBusy(t *testing.T) {
	source, s, _ := newScript(good(time.Now()))
	source.cfg.Limiter = sourcetest.Limiter{Err: errors.New("full")}
	if _, err := source.Token(t.Context(), sourcetest.Request("a", "x")); !errors.Is(err, token.ErrBusy) || len(s.seen) != 0 {
		t.Errorf("got %v after %d calls", err, len(s.seen))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var f *reason.Refusal
	if _, err := source.Token(ended, sourcetest.Request("a", "x")); !errors.As(err, &f) || f.Answer().Status != 500 {
		t.Errorf("got %v", err)
	}
}
