package token

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
)

const arm = "https://management.azure.com/"

// fakeEntitlements are added by the test.
type fakeEntitlements struct {
	changed chan struct{}

	mu  sync.Mutex
	ids []*v1.AzureIdentity
}

func newFakeEntitlements() *fakeEntitlements {
	return &fakeEntitlements{changed: make(chan struct{}, 1)}
}

func (w *fakeEntitlements) Changed() <-chan struct{} { return w.changed }

func (w *fakeEntitlements) Entitled() []*v1.AzureIdentity {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := w.ids
	w.ids = nil
	return ids
}

// Add makes pods entitled to identities.
func (w *fakeEntitlements) Add(ids ...*v1.AzureIdentity) {
	w.mu.Lock()
	w.ids = append(w.ids, ids...)
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
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
	h := newRecentResources()
	now := time.Now()
	for i := range 3 * maxRecentIdentities {
		for j := range 2 * maxRecent {
			h.record(key{uid: fmt.Sprint(i), resource: fmt.Sprint(j)}, now.Add(time.Duration(i)*time.Second))
		}
		h.candidates(key{uid: fmt.Sprint("unused", i)}, []string{arm}, now)
		if len(h.of) > maxRecentIdentities {
			t.Fatalf("%d identities", len(h.of))
		}
	}
	last := key{uid: fmt.Sprint(3*maxRecentIdentities - 1)}
	if got := h.candidates(last, []string{arm}, now.Add(3*maxRecentIdentities*time.Second)); len(got) != maxRecent || got[0] != fmt.Sprint(2*maxRecent-1) {
		t.Errorf("worth fetching: %v", got)
	}
}

// TestPrefetchOfAGreedyNamespace: the identities of a namespace that becomes entitled to ever new
// ones keep another namespace's waiting for a turn, and displace no habit of theirs.
func TestPrefetchOfAGreedyNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{life: time.Hour, takes: 100 * time.Millisecond}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := NewCache(ctx, CacheConfig{
			Source: s, Max: 4096, MaxPerIdentity: 128, FetchTimeout: 10 * time.Second, StaleAfter: time.Second,
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
		w := newFakeEntitlements()
		go NewPrefetcher(c, []string{arm}).Run(ctx, w)
		for i := range 2 * maxPending {
			w.Add(of("hostile", fmt.Sprint(i)))
			c.mu.Lock()
			c.recent.record(keyOf(Request{Identity: of("hostile", fmt.Sprint(i)), Resource: "x"}), time.Now())
			c.mu.Unlock()
		}
		pass(10 * time.Second)
		w.Add(of("shop", "web"), of("shop", "job"))
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
		if got := c.candidates(habit.Identity, []string{arm}); !slices.Equal(got, []string{"vault"}) {
			t.Errorf("worth fetching for the job: %v", got)
		}
	})
}
