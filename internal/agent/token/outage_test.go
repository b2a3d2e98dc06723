package token_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podid-io/podid/internal/agent/fair"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/imds"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/agent/token/source/sourcetest"
)

// service is a metadata service in fake time, behind the real source and the real limiter. It
// records the calls.
type service struct {
	mu    sync.Mutex
	life  time.Duration
	takes time.Duration
	// fault answers instead of a token, if it is not nil. Status 0 means that the service hangs.
	fault func(resource string) (status int, retryAfter string)
	// refuses is the prefix of resources that do not exist.
	refuses string

	calls    []call
	inFlight int
	most     int
}

type call struct {
	at       time.Time
	resource string
	identity string
	revoked  string
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	resource := q.Get("resource")
	s.mu.Lock()
	s.calls = append(s.calls, call{time.Now(), resource, cmp.Or(q.Get("msi_res_id"), q.Get("client_id")), q.Get("token_sha256_to_refresh")})
	s.inFlight++
	s.most = max(s.most, s.inFlight)
	fault, takes, life, n := s.fault, s.takes, s.life, len(s.calls)
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.inFlight--; s.mu.Unlock() }()
	h := http.Header{}
	if fault != nil {
		if status, wait := fault(resource); status > 0 {
			h.Set("Retry-After", wait)
			return answer(status, h, `{"error":"invalid_resource","error_description":"no"}`), nil
		}
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if s.refuses != "" && strings.HasPrefix(resource, s.refuses) {
		return answer(400, h, `{"error":"invalid_resource","error_description":"no"}`), nil
	}
	now := time.Now()
	return answer(200, h, fmt.Sprintf(`{"access_token":"token-%d","expires_on":"%d","not_before":"%d"}`, n, now.Add(life).Unix(), now.Unix())), nil
}

func answer(status int, h http.Header, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func (s *service) setFault(fault func(string) (int, string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

func (s *service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// seen returns the calls so far.
func (s *service) seen() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// atOnce returns the largest number of concurrent calls.
func (s *service) atOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// busiestSecond returns the largest number of calls that began within one second.
func (s *service) busiestSecond() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	most, from := 0, 0
	for i, c := range s.calls {
		for c.at.Sub(s.calls[from].at) >= time.Second {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}

// limits returns those of the agent.
func limits() fair.Config {
	return fair.Config{Rate: 15, Burst: 5, Concurrent: 5, PerCaller: 2, Waiting: 1024, WaitingPerCaller: 64, Background: token.Background}
}

// newAgent returns the cache over the client of a metadata service, as the agent has them.
func newAgent(t *testing.T, service http.RoundTripper) *token.Cache {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return token.NewCache(ctx, token.CacheConfig{
		Source: imds.New(imds.Config{
			Address: "169.254.169.254:80", Transport: service,
			Calls: source.Calls{Limiter: fair.New(limits()), Meter: &sourcetest.Meter{}, Operation: "op", UserAgent: "podid-nmi/test"},
		}),
		Max: 4096, MaxPerIdentity: 128, FetchTimeout: 16 * time.Second, StaleAfter: 500 * time.Millisecond,
		Render: func(t *token.Token, _ token.Request) (token.Body, error) { return body(t.Fields["access_token"]), nil },
	})
}

type body string

func (b body) Append(dst []byte, _ time.Time) []byte { return append(dst, b...) }

// faults returns the ways in which the service can fail.
func faults() map[string]func(string) (int, string) {
	always := func(status int, wait string) func(string) (int, string) {
		return func(string) (int, string) { return status, wait }
	}
	return map[string]func(string) (int, string){
		"500": always(500, ""), "429": always(429, ""), "429, wait 1 s": always(429, "1"), "429, wait a minute": always(429, "60"), "hangs": always(0, ""),
	}
}

// TestOutage makes 25 requests a second during an outage of a minute, at every stage of a token's
// life.
func TestOutage(t *testing.T) {
	for name, fault := range faults() {
		for _, life := range []time.Duration{time.Minute, time.Hour} {
			for _, stage := range []int{0, 5, 8, 9} { // tenths
				t.Run(fmt.Sprintf("%s, %v, stage %d", name, life, stage), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { outage(t, fault, life, stage, true) })
				})
				t.Run(fmt.Sprintf("%s, %v, stage %d, not in use", name, life, stage), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { outage(t, fault, life, stage, false) })
				})
			}
		}
	}
}

func outage(t *testing.T, fault func(string) (int, string), life time.Duration, stage int, inUse bool) {
	s := &service{life: life, takes: 20 * time.Millisecond}
	c := newAgent(t, s)
	first, _, err := c.Get(t.Context(), token.Ask("a", "x"))
	if err != nil {
		t.Fatal(err)
	}
	for range stage {
		token.Pass(life / 10)
		if inUse {
			if _, _, err := c.Get(t.Context(), token.Ask("a", "x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.setFault(fault)
	began, calls := time.Now(), s.count()
	held := token.HeldUntil(c, token.Ask("a", "x"))
	if held.IsZero() {
		held = first.ExpiresOn
	}
	var mu sync.Mutex
	var waited, failed, asked int
	var group sync.WaitGroup
	for now := began; now.Sub(began) < time.Minute && now.Before(held.Add(-time.Second)); now = time.Now() {
		asked++
		group.Go(func() {
			at := time.Now()
			_, _, err := c.Get(t.Context(), token.Ask("a", "x"))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
			}
			if time.Since(at) > 5*time.Millisecond {
				waited++
			}
		})
		token.Pass(40 * time.Millisecond)
	}
	group.Wait()
	if failed > 0 || waited > 13 || inUse && waited > 0 {
		t.Errorf("of %d requests with a valid token in hand %d failed and %d waited", asked, failed, waited)
	}
	if n := s.count() - calls; n > 45 {
		t.Errorf("%d calls to a failing service in a minute", n)
	}
	// After the outage, the service is called again soon, and all requests get a token.
	s.setFault(nil)
	token.Pass(time.Minute)
	if _, _, err := c.Get(t.Context(), token.Ask("a", "x")); err != nil {
		t.Errorf("a minute after the outage: %v", err)
	}
}
