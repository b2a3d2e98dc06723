package token_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podid-io/podid/internal/agent/token"
)

const arm = "https://management.azure.com/"

// entitlements are those of a prefetcher that runs beside a cache.
type entitlements struct{ *token.FakeEntitlements }

func (e entitlements) add(names ...string) {
	for _, name := range names {
		e.Add(token.Ask(name, "").Identity)
	}
}

func prefetching(t *testing.T, c *token.Cache, resources ...string) entitlements {
	w := token.NewFakeEntitlements()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { c.Prefetch(ctx, resources, w) })
	t.Cleanup(func() { cancel(); group.Wait() })
	return entitlements{w}
}

func TestPrefetchFirstRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: 24 * time.Hour, takes: 2 * time.Second}
		c := newAgent(t, s)
		w := prefetching(t, c, arm)
		w.add("a")
		token.Pass(3 * time.Second) // the pod's container starts
		token.MustGet(t, c, token.Ask("a", arm), `"token-1"`, token.Hit)
		w.add("a") // a second pod of the identity
		token.Pass(time.Second)
		if n := s.count(); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

// TestPrefetchRecent checks that the resources that the last pods of an identity requested are
// fetched for the next pod, and the default is not.
func TestPrefetchRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: time.Hour, takes: 20 * time.Millisecond, refuses: "bad"}
		c := newAgent(t, s)
		for _, resource := range []string{"vault", "storage", "bad"} {
			_, _, _ = c.Get(t.Context(), token.Ask("job", resource))
		}
		token.Pass(12 * time.Hour) // its tokens are gone
		if token.Held(c) != 0 {
			t.Fatal("still held")
		}
		before := s.count()
		prefetching(t, c, arm).add("job")
		token.Pass(time.Second)
		var fetched []string
		for _, call := range s.seen()[before:] {
			fetched = append(fetched, call.resource)
		}
		slices.Sort(fetched)
		if !slices.Equal(fetched, []string{"storage", "vault"}) {
			t.Errorf("fetched %v", fetched)
		}
	})
}

// TestPrefetchUnused checks that a default resource that no pod requests costs one call for each
// identity, however many pods come and however long they stay.
func TestPrefetchUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: time.Hour, takes: 20 * time.Millisecond}
		c := newAgent(t, s)
		w := prefetching(t, c, arm)
		for range 100 {
			w.add("a", "b")
			token.Pass(20 * time.Minute)
		}
		if n := s.count(); n != 2 {
			t.Errorf("%d calls", n)
		}
		if token.Held(c) != 0 {
			t.Errorf("%d unused tokens are kept", token.Held(c))
		}
		token.MustGet(t, c, token.Ask("a", arm), `"token-3"`, token.Miss) // a pod requests it after all
		token.Pass(2 * time.Hour)
		before := s.count()
		w.add("a")
		token.Pass(time.Second)
		if n := s.count() - before; n != 1 {
			t.Errorf("%d calls for a recent resource", n)
		}
	})
}

// TestPrefetchRefused checks that prefetching backs off after refusals and faults.
func TestPrefetchRefused(t *testing.T) {
	for _, status := range []int{400, 403, 404, 429, 500} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{life: time.Hour, fault: refuse(status)}
				c := newAgent(t, s)
				w := prefetching(t, c, arm)
				for range 60 {
					w.add("a", "b", "c")
					token.Pass(time.Second)
				}
				if n := s.count(); n > 30 {
					t.Errorf("%d calls in a minute", n)
				}
			})
		})
	}
}

// TestRestartOnFullNode restarts the agent on a node of 250 pods with 20 identities. All pods
// request a token at once.
func TestRestartOnFullNode(t *testing.T) {
	for _, apart := range []time.Duration{0, 2 * time.Millisecond, 100 * time.Millisecond} {
		t.Run(apart.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{life: 24 * time.Hour, takes: 30 * time.Millisecond}
				c := newAgent(t, s)
				w := prefetching(t, c, arm)
				var names []string
				for i := range 20 {
					names = append(names, fmt.Sprint(i))
				}
				w.add(names...)
				var group sync.WaitGroup
				for i := range 250 {
					group.Go(func() {
						token.Pass(time.Duration(i) * apart)
						r := token.Ask(names[i%20], arm)
						r.Caller = fmt.Sprint("ns/", i)
						began := time.Now()
						if _, _, err := c.Get(t.Context(), r); err != nil || time.Since(began) > 1500*time.Millisecond {
							t.Errorf("pod %d: %v after %v", i, err, time.Since(began))
						}
					})
				}
				group.Wait()
				token.Pass(10 * time.Second)
				if n := s.count(); n != 20 || s.atOnce() > 5 || s.busiestSecond() > 20 {
					t.Errorf("%d calls, %d at once, %d a second", n, s.atOnce(), s.busiestSecond())
				}
			})
		})
	}
}

// TestPrefetchBecomesRequest checks that a prefetch that waits in the background moves to the pod's
// own queue as soon as the pod requests the token.
func TestPrefetchBecomesRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: 24 * time.Hour, takes: 20 * time.Millisecond}
		c := newAgent(t, s)
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for worker := range 60 {
			group.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					r := token.Ask("g", fmt.Sprint(worker, "/", i))
					r.Caller = "ns/greedy"
					_, _, _ = c.Get(ctx, r)
				}
			})
		}
		token.Pass(3 * time.Second)
		prefetching(t, c, arm).add("a")
		token.Pass(500 * time.Millisecond)
		if slices.ContainsFunc(s.seen(), func(c call) bool { return c.identity == "/r/a" }) {
			t.Error("fetched ahead of pods that wait, before its share was due")
		}
		r := token.Ask("a", arm)
		r.Caller = "ns/neighbor"
		began := time.Now()
		if _, outcome, err := c.Get(t.Context(), r); err != nil || outcome != token.Shared || time.Since(began) > 250*time.Millisecond {
			t.Errorf("outcome %d, %v after %v", outcome, err, time.Since(began))
		}
		stop()
		group.Wait()
	})
}

// TestPrefetchBehind checks that prefetching uses one place at a time and leaves pods half of the
// burst.
func TestPrefetchBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: 24 * time.Hour, takes: 400 * time.Millisecond}
		c := newAgent(t, s)
		w := prefetching(t, c, arm)
		w.add("a", "b", "c", "d")
		token.Pass(100 * time.Millisecond)
		if s.atOnce() != 1 {
			t.Errorf("%d places are in use", s.atOnce())
		}
		var group sync.WaitGroup
		for i := range 3 {
			group.Go(func() {
				r := token.Ask(fmt.Sprint("pod", i), arm)
				r.Caller = r.Identity.Name
				began := time.Now()
				if _, _, err := c.Get(t.Context(), r); err != nil || time.Since(began) > 400*time.Millisecond {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
		}
		group.Wait()
		token.Pass(5 * time.Second)
		if n := s.count(); n != 7 {
			t.Errorf("%d calls", n)
		}
	})
}
