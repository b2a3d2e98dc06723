package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
)

// fakeSource mints numbered tokens, with a delay or an error.
type fakeSource struct {
	mu    sync.Mutex
	calls []Request
	life  time.Duration
	takes time.Duration
	err   error
}

func (s *fakeSource) Token(ctx context.Context, r Request) (*Token, error) {
	s.mu.Lock()
	s.calls = append(s.calls, r)
	n, life, takes, err := len(s.calls), s.life, s.takes, s.err
	s.mu.Unlock()
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return nil, errors.New("too slow")
		}
	}
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &Token{
		Fields:   map[string]json.RawMessage{"n": []byte(fmt.Sprint(n))},
		Obtained: now, NotBefore: now, ExpiresOn: now.Add(life), ObjectID: "oid-" + r.Identity.Name,
	}, nil
}

func (s *fakeSource) set(change func(*fakeSource)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *fakeSource) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

type textBody string

func (b textBody) Append(dst []byte, _ time.Time) []byte { return append(dst, b...) }

func newTestCache(t testing.TB, s Source) *Cache {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return NewCache(ctx, CacheConfig{
		Source: s, Max: 8, MaxPerIdentity: 4, FetchTimeout: 10 * time.Second, StaleAfter: time.Second,
		Render: func(t *Token, _ Request) (Body, error) { return textBody("token " + string(t.Fields["n"])), nil },
	})
}

func ask(id, resource string) Request {
	return Request{Caller: "pod", Resource: resource, Identity: &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: id, UID: types.UID(id)},
		Spec:       v1.AzureIdentitySpec{ClientID: "Client-" + id, ResourceID: "/r/" + id},
	}}
}

func mustGet(t *testing.T, c *Cache, r Request, want string, outcome Outcome) {
	t.Helper()
	got, o, err := c.Get(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if body := string(got.Body.Append(nil, time.Now())); body != want || o != outcome {
		t.Fatalf("got %q (outcome %d), want %q (%d)", body, o, want, outcome)
	}
}

func TestCacheKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{life: time.Hour}
		c := newTestCache(t, s)
		mustGet(t, c, ask("a", "x"), "token 1", Miss)
		mustGet(t, c, ask("a", "x"), "token 1", Hit)
		mustGet(t, c, ask("a", "x/"), "token 2", Miss)
		mustGet(t, c, ask("b", "x"), "token 3", Miss)
		edited := ask("a", "x")
		edited.Identity.Spec.ClientID = "other"
		mustGet(t, c, edited, "token 4", Miss)
		again := ask("a", "x")
		again.Identity.UID = "made again"
		mustGet(t, c, again, "token 5", Miss)
		mustGet(t, c, ask("a", "x"), "token 1", Hit)
		if got := c.ObjectID(ask("a", "")); got != "oid-a" {
			t.Errorf("object id %q", got)
		}
	})
}

func TestCacheOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{life: time.Hour, takes: 2 * time.Second}
		c := newTestCache(t, s)
		canceled, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() {
			if _, _, err := c.Get(canceled, ask("a", "x")); !errors.Is(err, context.Canceled) {
				t.Errorf("the request that was canceled: %v", err)
			}
		})
		synctest.Wait()
		for range 20 {
			group.Go(func() { mustGet(t, c, ask("a", "x"), "token 1", Shared) })
		}
		synctest.Wait()
		cancel()
		group.Wait()
		if s.count() != 1 {
			t.Errorf("%d calls, want 1", s.count())
		}
	})
}

func TestCacheRefreshesAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{life: 24 * time.Hour}
		c := newTestCache(t, s)
		mustGet(t, c, ask("a", "x"), "token 1", Miss)
		pass(17 * time.Hour)
		mustGet(t, c, ask("a", "x"), "token 1", Hit)
		pass(150 * time.Minute) // 19.5 h: past 80 % of the life
		synctest.Wait()
		mustGet(t, c, ask("a", "x"), "token 2", Hit)
		// Without requests there is one more refresh, then the entry goes.
		pass(72 * time.Hour)
		synctest.Wait()
		if s.count() != 3 {
			t.Errorf("%d calls, want 3", s.count())
		}
		if n := len(c.entries); n != 0 {
			t.Errorf("%d entries left", n)
		}
		if n := len(c.perID) + len(c.objects); n != 0 {
			t.Errorf("%d leftovers", n)
		}
	})
}

func TestCacheShortLife(t *testing.T) {
	for _, life := range []time.Duration{4 * time.Second, time.Minute, 6 * time.Minute, 20 * time.Minute, time.Hour} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &fakeSource{life: life}
				c := newTestCache(t, s)
				enough := min(5*time.Minute, life/4)
				for range 100 {
					got, _, err := c.Get(t.Context(), ask("a", "x"))
					if err != nil {
						t.Fatal(err)
					}
					if left := time.Until(got.ExpiresOn); left < enough {
						t.Fatalf("handed out with %v left", left)
					}
					pass(life / 20)
				}
				if n := s.count(); n > 10 {
					t.Errorf("%d calls in 5 lives", n)
				}
			})
		})
	}
}

func TestRefreshInBounds(t *testing.T) {
	now := time.Now()
	for _, life := range []time.Duration{time.Second, time.Hour, 24 * time.Hour, 100 * 365 * 24 * time.Hour, math.MaxInt64} {
		for _, spread := range []float64{0, 1} {
			token := &Token{Obtained: now, ExpiresOn: now.Add(life)}
			in := token.refreshIn(now, spread)
			if in < min(life/2, time.Second) || in > life {
				t.Errorf("a token of %v is refreshed in %v", life, in)
			}
		}
	}
}

func TestCacheSourceDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{life: time.Hour}
		c := newTestCache(t, s)
		mustGet(t, c, ask("a", "x"), "token 1", Miss)
		s.set(func(s *fakeSource) { s.err = errors.New("down") })
		for range 59 {
			pass(time.Minute)
			got, _, err := c.Get(t.Context(), ask("a", "x"))
			if err != nil || got == nil {
				t.Fatalf("a valid token was held: %v", err)
			}
		}
		if n := s.count(); n > 25 {
			t.Errorf("%d calls to a failing source", n)
		}
		pass(2 * time.Minute)
		if _, _, err := c.Get(t.Context(), ask("a", "x")); err == nil {
			t.Fatal("an expired token was handed out")
		}
		s.set(func(s *fakeSource) { s.err = nil })
		got, _, err := c.Get(t.Context(), ask("a", "x"))
		if err != nil || got.ExpiresOn.Before(time.Now()) {
			t.Fatalf("after recovery: %v", err)
		}
	})
}

func TestCacheSourceSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{life: time.Hour}
		c := newTestCache(t, s)
		mustGet(t, c, ask("a", "x"), "token 1", Miss)
		s.set(func(s *fakeSource) { s.takes = time.Minute }) // longer than FetchTimeout
		pass(57 * time.Minute)
		began := time.Now()
		mustGet(t, c, ask("a", "x"), "token 1", Stale)
		if took := time.Since(began); took > time.Second {
			t.Errorf("waited %v although a valid token was held", took)
		}
		// Without a token, a request waits for the whole fetch.
		began = time.Now()
		if _, _, err := c.Get(t.Context(), ask("b", "x")); err == nil || time.Since(began) > 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestCacheSameTokenAgain(t *testing.T) {
	// The metadata service has a cache of its own: it returns the same token until shortly before
	// its expiry.
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{life: time.Hour}
		end := time.Now().Add(time.Hour)
		c := newTestCache(t, sourceFunc(func(ctx context.Context, r Request) (*Token, error) {
			got, err := s.Token(ctx, r)
			got.ExpiresOn = end
			return got, err
		}))
		for time.Until(end) > time.Minute {
			if _, _, err := c.Get(t.Context(), ask("a", "x")); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		if n := s.count(); n > 15 {
			t.Errorf("%d calls for one token", n)
		}
	})
}

type sourceFunc func(context.Context, Request) (*Token, error)

func (f sourceFunc) Token(ctx context.Context, r Request) (*Token, error) { return f(ctx, r) }

func TestCacheIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{life: time.Hour}
		c := newTestCache(t, s)
		mustGet(t, c, ask("good", "x"), "token 1", Miss)
		for i := range 50 { // one identity, ever new resources
			pass(time.Millisecond)
			if _, _, err := c.Get(t.Context(), ask("greedy", fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		mustGet(t, c, ask("good", "x"), "token 1", Hit)
		if n := len(c.entries); n != 5 {
			t.Errorf("%d entries, want 1 and 4", n)
		}
		for i := range 50 { // many identities
			pass(time.Millisecond)
			if _, _, err := c.Get(t.Context(), ask(fmt.Sprint("id", i), "x")); err != nil {
				t.Fatal(err)
			}
			if n := len(c.entries); n > 8 {
				t.Fatalf("%d entries", n)
			}
		}
		s.set(func(s *fakeSource) { s.err = errors.New("refused") })
		for i := range 50 { // failures are not kept
			_, _, _ = c.Get(t.Context(), ask("greedy", fmt.Sprint("bad", i)))
		}
		synctest.Wait()
		if n := len(c.entries); n > 8 {
			t.Errorf("%d entries", n)
		}
	})
}

func TestCacheBusyNeighbor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The queue of pod "greedy" is full, that of others is not.
		c := newTestCache(t, sourceFunc(func(ctx context.Context, r Request) (*Token, error) {
			<-time.After(time.Second)
			if r.Caller == "greedy" {
				return nil, ErrBusy
			}
			return (&fakeSource{life: time.Hour}).Token(ctx, r)
		}))
		greedy := ask("a", "x")
		greedy.Caller = "greedy"
		var group sync.WaitGroup
		group.Go(func() {
			if _, _, err := c.Get(t.Context(), greedy); !errors.Is(err, ErrBusy) {
				t.Errorf("greedy: %v", err)
			}
		})
		synctest.Wait()
		group.Go(func() { mustGet(t, c, ask("a", "x"), "token 1", Miss) })
		group.Wait()
	})
}

func TestTokenPrintsNothing(t *testing.T) {
	s := &fakeSource{life: time.Hour}
	secret, err := s.Token(t.Context(), ask("a", "x"))
	if err != nil {
		t.Fatal(err)
	}
	secret.Fields["access_token"] = []byte(`"eyJ.secret.sig"`)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if text := fmt.Sprintf(verb, secret); strings.Contains(text, "secret") || strings.Contains(text, "7365") {
			t.Errorf("%s: %s", verb, text)
		}
	}
}

// pass waits. In a synctest bubble that takes no time.
func pass(d time.Duration) {
	if d > 0 { // Go 1.26 with the race detector crashes on a channel timer of a bubble that is due at once
		<-time.After(d)
	}
}
