package token

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
)

const arm = "https://management.azure.com/"

// wishes are what pods became entitled to.
type wishes struct {
	changed chan struct{}

	mu  sync.Mutex
	ids []*v1.AzureIdentity
}

func newWishes() *wishes { return &wishes{changed: make(chan struct{}, 1)} }

func (w *wishes) Changed() <-chan struct{} { return w.changed }

func (w *wishes) Entitled() []*v1.AzureIdentity {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := w.ids
	w.ids = nil
	return ids
}

func (w *wishes) wish(names ...string) {
	w.mu.Lock()
	for _, name := range names {
		w.ids = append(w.ids, ask(name, "").Identity)
	}
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// prefetching runs a prefetcher beside a cache.
func prefetching(t *testing.T, c *Cache, resources ...string) *wishes {
	w := newWishes()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { NewPrefetcher(c, resources).Run(ctx, w) })
	t.Cleanup(func() { cancel(); group.Wait() })
	return w
}

func TestPrefetchFirstRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: 24 * time.Hour, takes: 2 * time.Second}
		c := newAgent(t, s)
		w := prefetching(t, c, arm)
		w.wish("a")
		pass(3 * time.Second) // the pod's container starts
		mustGet(t, c, ask("a", arm), `"token-1"`, Hit)
		w.wish("a") // a second pod of the identity
		pass(time.Second)
		if n := s.count(); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

// TestPrefetchHabits: what the last pods of an identity asked for is fetched for
// the next, and the default is not.
func TestPrefetchHabits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: time.Hour, takes: 20 * time.Millisecond, refuses: "bad"}
		c := newAgent(t, s)
		for _, resource := range []string{"vault", "storage", "bad"} {
			_, _, _ = c.Get(t.Context(), ask("job", resource))
		}
		pass(12 * time.Hour) // its tokens are gone
		if size(c) != 0 {
			t.Fatal("still held")
		}
		before := s.count()
		prefetching(t, c, arm).wish("job")
		pass(time.Second)
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

// TestPrefetchUnused: a default resource that nobody wants costs one call for
// each identity, however many pods come and however long they stay.
func TestPrefetchUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: time.Hour, takes: 20 * time.Millisecond}
		c := newAgent(t, s)
		w := prefetching(t, c, arm)
		for range 100 {
			w.wish("a", "b")
			pass(20 * time.Minute)
		}
		if n := s.count(); n != 2 {
			t.Errorf("%d calls", n)
		}
		if size(c) != 0 {
			t.Errorf("%d tokens are kept for nobody", size(c))
		}
		mustGet(t, c, ask("a", arm), `"token-3"`, Miss) // somebody does after all
		pass(2 * time.Hour)
		before := s.count()
		w.wish("a")
		pass(time.Second)
		if n := s.count() - before; n != 1 {
			t.Errorf("%d calls for what has become a habit", n)
		}
	})
}

// TestPrefetchRefused: neither what is refused nor a service that is ill is
// asked on and on.
func TestPrefetchRefused(t *testing.T) {
	for _, status := range []int{400, 403, 404, 429, 500} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{life: time.Hour, ill: refuse(status)}
				c := newAgent(t, s)
				w := prefetching(t, c, arm)
				for range 60 {
					w.wish("a", "b", "c")
					pass(time.Second)
				}
				if n := s.count(); n > 30 {
					t.Errorf("%d calls in a minute", n)
				}
			})
		})
	}
}

// TestRestartOnFullNode: the agent is restarted on a node of 250 pods with 20
// identities that all ask at once.
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
				w.wish(names...)
				var group sync.WaitGroup
				for i := range 250 {
					group.Go(func() {
						pass(time.Duration(i) * apart)
						r := ask(names[i%20], arm)
						r.Caller = fmt.Sprint("ns/", i)
						began := time.Now()
						if _, _, err := c.Get(t.Context(), r); err != nil || time.Since(began) > 1500*time.Millisecond {
							t.Errorf("pod %d: %v after %v", i, err, time.Since(began))
						}
					})
				}
				group.Wait()
				pass(10 * time.Second)
				if n := s.count(); n != 20 || s.atOnce() > 5 || s.busiestSecond() > 20 {
					t.Errorf("%d calls, %d at once, %d a second", n, s.atOnce(), s.busiestSecond())
				}
			})
		})
	}
}

// TestPrefetchStepsAside: a fetch ahead that waits behind everybody becomes the
// pod's own as soon as it asks.
func TestPrefetchStepsAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: 24 * time.Hour, takes: 20 * time.Millisecond}
		c := newAgent(t, s)
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for worker := range 60 {
			group.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					r := ask("g", fmt.Sprint(worker, "/", i))
					r.Caller = "ns/greedy"
					_, _, _ = c.Get(ctx, r)
				}
			})
		}
		pass(3 * time.Second)
		prefetching(t, c, arm).wish("a")
		pass(500 * time.Millisecond)
		if slices.ContainsFunc(s.seen(), func(c call) bool { return c.identity == "/r/a" }) {
			t.Error("fetched ahead although others wait, before it has its share to get")
		}
		r := ask("a", arm)
		r.Caller = "ns/neighbour"
		began := time.Now()
		if _, outcome, err := c.Get(t.Context(), r); err != nil || outcome != Shared || time.Since(began) > 250*time.Millisecond {
			t.Errorf("outcome %d, %v after %v", outcome, err, time.Since(began))
		}
		stop()
		group.Wait()
	})
}

// TestPrefetchBehind: what is fetched ahead takes one place at a time, and
// leaves the pods half of the burst.
func TestPrefetchBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: 24 * time.Hour, takes: 400 * time.Millisecond}
		c := newAgent(t, s)
		w := prefetching(t, c, arm)
		w.wish("a", "b", "c", "d")
		pass(100 * time.Millisecond)
		if s.atOnce() != 1 {
			t.Errorf("%d places are taken", s.atOnce())
		}
		var group sync.WaitGroup
		for i := range 3 {
			group.Go(func() {
				r := ask(fmt.Sprint("pod", i), arm)
				r.Caller = r.Identity.Name
				began := time.Now()
				if _, _, err := c.Get(t.Context(), r); err != nil || time.Since(began) > 400*time.Millisecond {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
		}
		group.Wait()
		pass(5 * time.Second)
		if n := s.count(); n != 7 {
			t.Errorf("%d calls", n)
		}
	})
}

// TestPrefetchEndpoints: trouble of an endpoint that somebody named concerns
// their identities only.
func TestPrefetchEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{err: &Failure{Status: 500}}
		p := NewPrefetcher(newTestCache(t, s), []string{arm})
		theirs, alike, ours := ask("a", "").Identity, ask("b", "").Identity, ask("c", "").Identity
		theirs.Spec.ADEndpoint, alike.Spec.ADEndpoint = "https://ill.example", "https://ill.example"
		p.add([]*v1.AzureIdentity{theirs, alike, ours})
		for p.pending.Len() > 0 {
			p.fetchNext(t.Context())
		}
		if s.count() != 2 || s.calls[1].Identity != ours {
			t.Errorf("%d calls", s.count())
		}
	})
}

func TestHabitsAreBounded(t *testing.T) {
	h := newHabits()
	now := time.Now()
	for i := range 3 * maxHabits {
		for j := range 2 * maxAsked {
			h.note(key{uid: fmt.Sprint(i), resource: fmt.Sprint(j)}, now.Add(time.Duration(i)*time.Second))
		}
		h.worth(key{uid: fmt.Sprint("unused", i)}, []string{arm}, now)
		if len(h.of) > maxHabits {
			t.Fatalf("%d identities", len(h.of))
		}
	}
	last := key{uid: fmt.Sprint(3*maxHabits - 1)}
	if got := h.worth(last, []string{arm}, now.Add(3*maxHabits*time.Second)); len(got) != maxAsked || got[0] != fmt.Sprint(2*maxAsked-1) {
		t.Errorf("worth fetching: %v", got)
	}
}

// TestPrefetchOfAGreedyNamespace: the identities of a namespace that becomes entitled to ever new ones
// keep another namespace's waiting for a turn, and displace no habit of theirs.
func TestPrefetchOfAGreedyNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{life: time.Hour, takes: 100 * time.Millisecond}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := NewCache(ctx, CacheConfig{
			Source: s, Max: 4096, MaxPerIdentity: 128, FlightTime: 10 * time.Second, Patience: time.Second,
			Render: func(t *Token, _ Request) (Body, error) { return textBody("x"), nil },
		})
		of := func(namespace, name string) *v1.AzureIdentity {
			id := ask(namespace+name, "").Identity
			id.Namespace = namespace
			return id
		}
		habit := Request{Identity: of("shop", "job"), Resource: "vault", Caller: "shop/job"}
		if _, _, err := c.Get(ctx, habit); err != nil {
			t.Fatal(err)
		}
		w := newWishes()
		go NewPrefetcher(c, []string{arm}).Run(ctx, w)
		wish := func(ids ...*v1.AzureIdentity) {
			w.mu.Lock()
			w.ids = append(w.ids, ids...)
			w.mu.Unlock()
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
		for i := range 2 * maxPending {
			wish(of("hostile", fmt.Sprint(i)))
			c.mu.Lock()
			c.habits.note(keyOf(Request{Identity: of("hostile", fmt.Sprint(i)), Resource: "x"}), time.Now())
			c.mu.Unlock()
		}
		pass(10 * time.Second)
		wish(of("shop", "web"), of("shop", "job"))
		pass(500 * time.Millisecond) // two turns of each, and the one under way
		var shop []string
		s.mu.Lock()
		for _, r := range s.calls[1:] {
			if r.Identity.Namespace == "shop" {
				shop = append(shop, r.Identity.Name+" "+r.Resource)
			}
		}
		s.mu.Unlock()
		if want := []string{"shopweb " + arm}; !slices.Equal(shop, want) {
			t.Errorf("fetched %v, want %v: the job's is held", shop, want)
		}
		if got := c.worth(habit.Identity, []string{arm}); !slices.Equal(got, []string{"vault"}) {
			t.Errorf("worth fetching for the job: %v", got)
		}
	})
}

// TestAcquireWanted: whenever somebody comes to wait, the turn is taken, once.
func TestAcquireWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, late := range []time.Duration{0, time.Second, 2 * time.Second} {
			l := &queue{background: 1500 * time.Millisecond}
			wanted := make(chan string, 1)
			r := Request{Caller: Background, Wanted: wanted}
			go func() { pass(late); wanted <- "pod" }()
			release, err := r.acquire(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			release()
			if want := min(late, 1500*time.Millisecond); l.granted != 1 || l.took != want {
				t.Errorf("wanted after %v: granted %d times, after %v", late, l.granted, l.took)
			}
			if own := late < 1500*time.Millisecond; own != (r.Caller == "pod") || own != (r.Wanted == nil) {
				t.Errorf("wanted after %v: the caller is %q", late, r.Caller)
			}
			pass(time.Hour)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		r := Request{Caller: Background, Wanted: make(chan string, 1)}
		if _, err := r.acquire(ended, &queue{background: time.Second}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// queue lets pods begin at once, and the background after a while.
type queue struct {
	background time.Duration
	granted    int
	took       time.Duration
}

func (q *queue) Acquire(ctx context.Context, caller string) (func(), error) {
	began := time.Now()
	if caller == Background && !rest(ctx, q.background) {
		q.took += time.Since(began)
		return nil, context.Cause(ctx)
	}
	q.took += time.Since(began)
	q.granted++
	return func() {}, nil
}

func (q *queue) StayAway(time.Duration) {}
