// Tokens fetched before anybody asks.

package token

import (
	"context"
	"net/http"
	"slices"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
)

// Background is the Caller of requests that nobody waits for. The limiter should
// let it begin only what leaves others room.
const Background = "background"

// Wishes tells which identities pods have become entitled to.
type Wishes interface {
	// Changed gets a value when Entitled has something to say. Its values may
	// be merged.
	Changed() <-chan struct{}
	// Entitled returns the identities that pods have become, or may have
	// become, entitled to since it was last asked.
	Entitled() []*v1.AzureIdentity
}

// Prefetcher fetches tokens when a pod becomes entitled to an identity, so that
// its first request finds one in memory: those the identity was lately asked
// for on this node, or else the default resources.
//
// It is in nobody's way: one token at a time, in the background of the limiter,
// and nothing that is held, under way or was refused of late. A token fetched so
// is not refreshed unless somebody uses it, and a default resource that nobody
// asked for is not fetched again.
type Prefetcher struct {
	cache     *Cache
	resources []string
}

// NewPrefetcher returns one for a cache. With no default resources it fetches
// only what was asked for before.
func NewPrefetcher(cache *Cache, resources []string) *Prefetcher {
	return &Prefetcher{cache, resources}
}

// aheadTime is how long one fetch may hold up the next. One that takes longer
// goes on, still in the background.
const aheadTime = 5 * time.Second

// Run fetches what is wished for until ctx ends.
func (p *Prefetcher) Run(ctx context.Context, wishes Wishes) {
	for {
		select {
		case <-wishes.Changed():
			p.fetchAll(ctx, wishes.Entitled())
		case <-ctx.Done():
			return
		}
	}
}

// fetchAll skips what comes after a source had trouble: pods will ask for it by
// themselves, and meanwhile it should be left alone. An endpoint that somebody
// named for identities of theirs is a source of its own.
func (p *Prefetcher) fetchAll(ctx context.Context, identities []*v1.AzureIdentity) {
	type source struct {
		kind     v1.IdentityType
		endpoint string
	}
	ill := map[source]bool{}
	for _, id := range identities {
		from := source{id.Spec.Type, id.Spec.ADEndpoint}
		if ill[from] {
			continue
		}
		for _, resource := range p.cache.worth(id, p.resources) {
			if ctx.Err() != nil {
				return
			}
			if !p.cache.ahead(ctx, Request{Identity: id, Resource: resource, Caller: Background}) {
				ill[from] = true
				break
			}
		}
	}
}

// worth are the resources worth fetching ahead for an identity.
func (c *Cache) worth(id *v1.AzureIdentity, defaults []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.habits.worth(keyOf(Request{Identity: id}).uid, defaults, time.Now())
}

// ahead fetches a token that nobody asked for, unless one is held, under way or
// was refused of late, and waits a little for it. It returns false when the
// source says that it has trouble, whatever it is asked for.
func (c *Cache) ahead(ctx context.Context, r Request) bool {
	f := c.launchAhead(r) //nolint:contextcheck // a flight may get passengers, who outlive the prefetcher
	if f == nil {
		return true
	}
	timer := time.NewTimer(aheadTime)
	defer timer.Stop()
	select {
	case <-f.done:
		problem := failureOf(f.err)
		return problem == nil || problem.Status < http.StatusTooManyRequests
	case <-timer.C:
		return true
	case <-ctx.Done():
		return true
	}
}

func (c *Cache) launchAhead(r Request) *flight {
	k := keyOf(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if e := c.entries[k]; e != nil && (e.token.Load().fresh(now) || now.Before(e.retryAt)) {
		return nil
	}
	if c.flights[k] != nil || len(c.flights) >= c.cfg.Max || c.failures.recall(k, now) != nil {
		return nil
	}
	return c.launch(k, r)
}

// habits are the resources that identities are asked for on this node. They are
// kept by the UID of the identity, for a while after its tokens are gone: the
// next run of a job will ask as the last one did.
//
// Not safe for concurrent use.
type habits struct{ of map[string]*habit }

type habit struct {
	asked []asked  // the latest first, each resource once
	tried []string // defaults fetched for nobody so far
}

type asked struct {
	resource string
	at       time.Time
}

const (
	// maxHabits is more identities than a node's pods have; maxAsked more
	// resources than are worth fetching ahead for one.
	maxHabits, maxAsked = 512, 4
	// lately is how long a habit lasts: jobs that run once a day are met.
	lately = 36 * time.Hour
)

func newHabits() *habits { return &habits{of: map[string]*habit{}} }

// note remembers that a resource is in use. Only those with a token count, so
// that nobody can fill this with nonsense.
func (h *habits) note(uid, resource string, now time.Time) {
	x := h.get(uid)
	x.asked = slices.DeleteFunc(x.asked, func(a asked) bool { return a.resource == resource })
	x.asked = slices.Insert(x.asked, 0, asked{resource, now})
	x.asked = x.asked[:min(len(x.asked), maxAsked)]
}

// worth are the resources asked for lately, or those of the defaults that have
// not been tried; they count as tried now.
func (h *habits) worth(uid string, defaults []string, now time.Time) []string {
	x := h.get(uid)
	var resources []string
	for _, a := range x.asked {
		if now.Sub(a.at) < lately {
			resources = append(resources, a.resource)
		}
	}
	if len(resources) > 0 {
		return resources
	}
	for _, resource := range defaults {
		if !slices.Contains(x.tried, resource) {
			resources = append(resources, resource)
		}
	}
	x.tried = defaults
	return resources
}

func (h *habits) get(uid string) *habit {
	x := h.of[uid]
	if x != nil {
		return x
	}
	if len(h.of) >= maxHabits {
		h.evict()
	}
	x = &habit{}
	h.of[uid] = x
	return x
}

// evict forgets the identity that was not asked for anything for longest.
func (h *habits) evict() {
	var victim string
	var oldest time.Time
	for uid, x := range h.of {
		var last time.Time
		if len(x.asked) > 0 {
			last = x.asked[0].at
		}
		if victim == "" || last.Before(oldest) {
			victim, oldest = uid, last
		}
	}
	delete(h.of, victim)
}
