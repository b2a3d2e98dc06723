// Tokens fetched before a request asks for them.

package token

import (
	"context"
	"maps"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/reason"
	"github.com/podid-io/podid/internal/turns"
)

// Background is the Caller of requests that no pod waits for. The limiter should start them only if
// that leaves room for others.
const Background = "background"

// Entitlements returns the identities that pods have become entitled to.
type Entitlements interface {
	// Changed gets a value when Entitled has new identities. Values may be merged.
	Changed() <-chan struct{}
	// Entitled returns the identities that pods have become, or may have become, entitled to since
	// the last call.
	Entitled() []*v1.AzureIdentity
}

// prefetcher is one run of Prefetch.
type prefetcher struct {
	cache     *Cache
	resources []string

	pending  *turns.Queue[*v1.AzureIdentity]
	places   map[types.NamespacedName]*turns.Entry[*v1.AzureIdentity] // in pending
	cooldown map[origin]time.Time                                     // until when to skip a source
}

// origin is a source as the identities of one namespace use it. An endpoint that an identity names
// is a source of its own.
type origin struct {
	namespace string
	kind      v1.IdentityType
	endpoint  string
}

const (
	// prefetchWait is how long one fetch may delay the next. A longer one goes on in the
	// background.
	prefetchWait = 5 * time.Second
	// cooldownTime is how long a source that had trouble is skipped. Pods request their tokens
	// anyway.
	cooldownTime = 5 * time.Second
	// maxPending bounds the identities whose tokens are to be fetched, maxCooldowns the sources
	// that are skipped.
	maxPending, maxCooldowns = 1024, 256
)

func newPrefetcher(cache *Cache, resources []string) *prefetcher {
	return &prefetcher{
		cache: cache, resources: resources, pending: turns.NewQueue[*v1.AzureIdentity](maxPending, maxPending),
		places: map[types.NamespacedName]*turns.Entry[*v1.AzureIdentity]{}, cooldown: map[origin]time.Time{},
	}
}

// Prefetch fetches tokens when a pod becomes entitled to an identity, until ctx ends, so that the
// first request finds one in memory. It fetches the resources that were recently requested for the
// identity on this node, or else the default resources.
//
// It fetches one token at a time, in the background of the limiter, and none that is held, in
// flight or recently refused. Such a token is refreshed only if it is used, and a default resource
// that no pod requested is not fetched again. Namespaces take turns.
func (c *Cache) Prefetch(ctx context.Context, resources []string, entitlements Entitlements) {
	p := newPrefetcher(c, resources)
	for ctx.Err() == nil {
		if p.pending.Len() == 0 {
			select {
			case <-entitlements.Changed():
				p.add(entitlements.Entitled())
			case <-ctx.Done():
			}
			continue
		}
		select {
		case <-entitlements.Changed():
			p.add(entitlements.Entitled())
		default:
		}
		p.fetchNext(ctx)
	}
}

// add queues identities, each once and in its latest version.
func (p *prefetcher) add(identities []*v1.AzureIdentity) {
	for _, id := range identities {
		name := nameOf(id)
		if place := p.places[name]; place != nil {
			place.Item = id
			continue
		}
		place, evicted := p.pending.Push(id.Namespace, "", id)
		if evicted != nil {
			delete(p.places, nameOf(evicted.Item))
		}
		if place != nil {
			p.places[name] = place
		}
	}
}

func nameOf(id *v1.AzureIdentity) types.NamespacedName {
	return types.NamespacedName{Namespace: id.Namespace, Name: id.Name}
}

// fetchNext fetches the tokens of the next identity, unless its source had trouble just now.
func (p *prefetcher) fetchNext(ctx context.Context) {
	place := p.pending.Next(func(*turns.Entry[*v1.AzureIdentity]) bool { return true })
	if place == nil {
		return
	}
	id := place.Item
	p.pending.Take(place)
	delete(p.places, nameOf(id))
	from := origin{id.Namespace, id.Spec.Type, id.Spec.ADEndpoint}
	if time.Now().Before(p.cooldown[from]) {
		return
	}
	for _, resource := range p.cache.candidates(id, p.resources) {
		if ctx.Err() != nil {
			return
		}
		if !p.cache.prefetch(ctx, Request{Identity: id, Resource: resource, Caller: Background}) {
			p.startCooldown(from, time.Now())
			return
		}
	}
}

func (p *prefetcher) startCooldown(from origin, now time.Time) {
	if len(p.cooldown) >= maxCooldowns {
		maps.DeleteFunc(p.cooldown, func(_ origin, until time.Time) bool { return !now.Before(until) })
	}
	if len(p.cooldown) >= maxCooldowns {
		clear(p.cooldown)
	}
	p.cooldown[from] = now.Add(cooldownTime)
}

// candidates returns the resources to fetch ahead for an identity.
func (c *Cache) candidates(id *v1.AzureIdentity, defaults []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recent.candidates(keyOf(Request{Identity: id}), defaults, time.Now())
}

// prefetch fetches a token unless it is held, in flight or recently refused, and waits a little for
// it. It returns false if the source has trouble that concerns all its tokens.
func (c *Cache) prefetch(ctx context.Context, r Request) bool {
	f := c.startPrefetch(r) //nolint:contextcheck // requests may join the fetch and outlive the prefetcher
	if f == nil {
		return true
	}
	timer := time.NewTimer(prefetchWait)
	defer timer.Stop()
	select {
	case <-f.done:
		failure := reason.AsRefusal(f.err)
		return failure == nil || failure.Answer().Status < http.StatusTooManyRequests
	case <-timer.C:
		return true
	case <-ctx.Done():
		return true
	}
}

func (c *Cache) startPrefetch(r Request) *fetch {
	k := keyOf(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if e := c.entries[k]; e != nil && (e.token.Load().fresh(now) || now.Before(e.retryAt)) {
		return nil
	}
	if c.fetches[k] != nil || len(c.fetches) >= c.cfg.Max || c.failures.recall(k, now) != nil {
		return nil
	}
	return c.start(k, r)
}
