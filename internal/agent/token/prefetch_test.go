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
	"github.com/podid-io/podid/internal/reason"
)

const arm = "https://management.azure.com/"

// fakeEntitlements are entitlements that the test adds.
type fakeEntitlements struct {
	changed chan struct{}

	mu  sync.Mutex
	ids []*v1.AzureIdentity
}

func newFakeEntitlements() *fakeEntitlements {
	return &fakeEntitlements{changed: make(chan struct{}, 1)}
}

func (e *fakeEntitlements) Changed() <-chan struct{} { return e.changed }

func (e *fakeEntitlements) Entitled() []*v1.AzureIdentity {
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := e.ids
	e.ids = nil
	return ids
}

// Add makes pods entitled to identities.
func (e *fakeEntitlements) Add(ids ...*v1.AzureIdentity) {
	e.mu.Lock()
	e.ids = append(e.ids, ids...)
	e.mu.Unlock()
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// TestPrefetchEndpoints checks that trouble of an endpoint affects only the identities that name
// it.
func TestPrefetchEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSource{err: reason.SourceFailed.Refuse("failed")}
		p := newPrefetcher(newTestCache(t, s), []string{arm})
		theirs, also, ours := ask("a", "").Identity, ask("b", "").Identity, ask("c", "").Identity
		theirs.Spec.ADEndpoint, also.Spec.ADEndpoint = "https://down.example", "https://down.example"
		p.add([]*v1.AzureIdentity{theirs, also, ours})
		for p.pending.Len() > 0 {
			p.fetchNext(t.Context())
		}
		if s.count() != 2 || s.calls[1].Identity != ours {
			t.Errorf("%d calls", s.count())
		}
	})
}

func TestRecentResourcesAreBounded(t *testing.T) {
	r := newRecentResources()
	now := time.Now()
	for i := range 3 * maxRecentIdentities {
		for j := range 2 * maxRecent {
			r.record(key{uid: fmt.Sprint(i), resource: fmt.Sprint(j)}, now.Add(time.Duration(i)*time.Second))
		}
		r.candidates(key{uid: fmt.Sprint("unused", i)}, []string{arm}, now)
		if len(r.of) > maxRecentIdentities {
			t.Fatalf("%d identities", len(r.of))
		}
	}
	last := key{uid: fmt.Sprint(3*maxRecentIdentities - 1)}
	if got := r.candidates(last, []string{arm}, now.Add(3*maxRecentIdentities*time.Second)); len(got) != maxRecent || got[0] != fmt.Sprint(2*maxRecent-1) {
		t.Errorf("candidates: %v", got)
	}
}

// TestPrefetchOfAGreedyNamespace checks that a namespace with ever new identities delays another
// namespace by no more than a turn, and evicts none of its recent resources.
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
		recent := Request{Identity: of("shop", "job"), Resource: "vault", Caller: "shop/job"}
		if _, _, err := c.Get(ctx, recent); err != nil {
			t.Fatal(err)
		}
		e := newFakeEntitlements()
		go c.Prefetch(ctx, []string{arm}, e)
		for i := range 2 * maxPending {
			e.Add(of("hostile", fmt.Sprint(i)))
			c.mu.Lock()
			c.recent.record(keyOf(Request{Identity: of("hostile", fmt.Sprint(i)), Resource: "x"}), time.Now())
			c.mu.Unlock()
		}
		pass(10 * time.Second)
		e.Add(of("shop", "web"), of("shop", "job"))
		pass(500 * time.Millisecond) // two turns of each, and the one in flight
		var shop []string
		s.mu.Lock()
		for _, r := range s.calls[1:] {
			if r.Identity.Namespace == "shop" {
				shop = append(shop, r.Identity.Name+" "+r.Resource)
			}
		}
		s.mu.Unlock()
		if want := []string{"shopweb " + arm}; !slices.Equal(shop, want) {
			t.Errorf("fetched %v, want %v: the token of the job is held", shop, want)
		}
		if got := c.candidates(recent.Identity, []string{arm}); !slices.Equal(got, []string{"vault"}) {
			t.Errorf("candidates for the job: %v", got)
		}
	})
}
