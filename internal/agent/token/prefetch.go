// Tokens fetched before anybody asks.

package token

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/turns"
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
// asked for is not fetched again. Namespaces take turns.
type Prefetcher struct {
	cache     *Cache
	resources []string

	pending *turns.Queue[*v1.AzureIdentity]
	places  map[types.NamespacedName]*turns.Entry[*v1.AzureIdentity] // in pending
	ill     map[origin]time.Time                                     // until when to leave a source alone
}

// origin is a source as the identities of one namespace see it. An endpoint that
// an identity names is a source of its own.
type origin struct {
	namespace string
	kind      v1.IdentityType
	endpoint  string
}

const (
	// aheadTime is how long one fetch may hold up the next. One that takes longer
	// goes on, still in the background.
	aheadTime = 5 * time.Second
	// illTime is how long a source that had trouble is left alone: pods will ask for
	// their tokens by themselves.
	illTime = 5 * time.Second
	// maxPending bounds the identities whose tokens are to be fetched, maxIll the
	// sources that are left alone.
	maxPending, maxIll = 1024, 256
)

// NewPrefetcher returns one for a cache. With no default resources it fetches
// only what was asked for before.
func NewPrefetcher(cache *Cache, resources []string) *Prefetcher {
	return &Prefetcher{
		cache: cache, resources: resources, pending: turns.NewQueue[*v1.AzureIdentity](maxPending, maxPending),
		places: map[types.NamespacedName]*turns.Entry[*v1.AzureIdentity]{}, ill: map[origin]time.Time{},
	}
}

// Run fetches what is wished for until ctx ends.
func (p *Prefetcher) Run(ctx context.Context, wishes Wishes) {
	for ctx.Err() == nil {
		if p.pending.Len() == 0 {
			select {
			case <-wishes.Changed():
				p.add(wishes.Entitled())
			case <-ctx.Done():
			}
			continue
		}
		select {
		case <-wishes.Changed():
			p.add(wishes.Entitled())
		default:
		}
		p.fetchNext(ctx)
	}
}

// add notes identities, each once and as it was last.
func (p *Prefetcher) add(identities []*v1.AzureIdentity) {
	for _, id := range identities {
		key := types.NamespacedName{Namespace: id.Namespace, Name: id.Name}
		if place := p.places[key]; place != nil {
			place.Item = id
			continue
		}
		place, gaveWay := p.pending.Push(id.Namespace, "", id)
		if gaveWay != nil {
			p.forget(gaveWay.Item)
		}
		if place != nil {
			p.places[key] = place
		}
	}
}

func (p *Prefetcher) forget(id *v1.AzureIdentity) {
	delete(p.places, types.NamespacedName{Namespace: id.Namespace, Name: id.Name})
}

// fetchNext fetches the tokens of the identity whose turn it is, unless its source had
// trouble just now.
func (p *Prefetcher) fetchNext(ctx context.Context) {
	place := p.pending.Next(func(*turns.Entry[*v1.AzureIdentity]) bool { return true })
	if place == nil {
		return
	}
	id := place.Item
	p.pending.Take(place)
	p.forget(id)
	from := origin{id.Namespace, id.Spec.Type, id.Spec.ADEndpoint}
	if time.Now().Before(p.ill[from]) {
		return
	}
	for _, resource := range p.cache.worth(id, p.resources) {
		if ctx.Err() != nil {
			return
		}
		if !p.cache.ahead(ctx, Request{Identity: id, Resource: resource, Caller: Background}) {
			p.leaveAlone(from, time.Now())
			return
		}
	}
}

func (p *Prefetcher) leaveAlone(from origin, now time.Time) {
	if len(p.ill) >= maxIll {
		maps.DeleteFunc(p.ill, func(_ origin, until time.Time) bool { return !now.Before(until) })
	}
	if len(p.ill) >= maxIll {
		clear(p.ill)
	}
	p.ill[from] = now.Add(illTime)
}

// worth are the resources worth fetching ahead for an identity.
func (c *Cache) worth(id *v1.AzureIdentity, defaults []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.habits.worth(keyOf(Request{Identity: id}), defaults, time.Now())
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
		problem := AsFailure(f.err)
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
	namespace string
	asked     []asked  // the latest first, each resource once
	tried     []string // defaults fetched for nobody so far
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
func (h *habits) note(k key, now time.Time) {
	x := h.get(k)
	x.asked = slices.DeleteFunc(x.asked, func(a asked) bool { return a.resource == k.resource })
	x.asked = slices.Insert(x.asked, 0, asked{k.resource, now})
	x.asked = x.asked[:min(len(x.asked), maxAsked)]
}

// worth are the resources asked for lately, or those of the defaults that have
// not been tried; they count as tried now.
func (h *habits) worth(k key, defaults []string, now time.Time) []string {
	x := h.get(k)
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

func (h *habits) get(k key) *habit {
	x := h.of[k.uid]
	if x != nil {
		return x
	}
	if len(h.of) >= maxHabits {
		h.evict(k.namespace)
	}
	x = &habit{namespace: k.namespace}
	h.of[k.uid] = x
	return x
}

// evict forgets the identity that was not asked for anything for longest, in the
// namespace that has most: the given one, if none has more.
func (h *habits) evict(namespace string) {
	count := map[string]int{}
	for _, x := range h.of {
		count[x.namespace]++
	}
	most := namespace
	for other, n := range count {
		if n > count[most] {
			most = other
		}
	}
	var victim string
	var oldest time.Time
	for uid, x := range h.of {
		var last time.Time
		if len(x.asked) > 0 {
			last = x.asked[0].at
		}
		if x.namespace == most && (victim == "" || last.Before(oldest)) {
			victim, oldest = uid, last
		}
	}
	delete(h.of, victim)
}
