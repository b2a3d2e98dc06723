// The cache in front of the sources: what a request finds in memory, and what it waits for.

package token

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Outcome is how the cache answered.
type Outcome int

// The outcomes.
const (
	// Hit: a token was held that is fresh, or the newest there is.
	Hit Outcome = iota
	// Miss: the source was asked.
	Miss
	// Shared: a fetch of the same token was in flight.
	Shared
	// Stale: the source has trouble, and a token was held that is still valid.
	Stale
	// Refused: the source refused the same request a moment ago and was not asked again.
	Refused
)

// CacheConfig is the configuration of a Cache.
type CacheConfig struct {
	Source Source
	// Render makes the reply of a new token. Its error counts as a failure of the source.
	Render func(*Token, Request) (Body, error)
	// Max bounds the tokens held in all, MaxPerIdentity those of one identity. A token of more than
	// 8 KiB counts as several. A pod that asks for ever new resources evicts only its own tokens. A
	// full cache evicts from the namespace that holds the most. Max also bounds the fetches in
	// flight and the failures that are remembered.
	Max, MaxPerIdentity int
	// FetchTimeout bounds one fetch, retries and queueing included.
	FetchTimeout time.Duration
	// StaleAfter is how long after the start of a fetch requests wait for it although they could
	// have a token that is still valid.
	StaleAfter time.Duration
	// Entries gets the number of tokens held whenever it changes. It may be nil.
	Entries func(int)
}

// Cache holds the tokens of the node. It is safe for concurrent use.
//
// For each key (identity and resource) there is at most one entry, which holds a token, and at most
// one fetch in flight. A request uses a fresh token, or joins the fetch, or starts it. A fetch
// belongs to no request: a client that disconnects neither ends nor wastes it. Only a token makes
// an entry, so requests that fail evict nothing.
//
// A token is refreshed ahead of its expiry if it was used since it came. So an unused entry is
// refreshed once at most and removed when its token expires. While the source is down, a token is
// served as long as it is valid, and the source is retried with backoff. Only the first requests
// wait, and only for a token that was not in use: the refresh of a used one began long before.
//
// Failures are remembered for some seconds; see failures.
//
// An entry's token and last use are atomic, for the request path. mu guards everything else.
type Cache struct {
	cfg CacheConfig
	ctx context.Context // of all fetches; ends with the process

	mu       sync.RWMutex
	entries  map[key]*entry
	fetches  map[key]*fetch
	units    int            // of all entries
	perID    map[key]int    // units of an identity's entries
	perSpace map[string]int // units of a namespace's entries
	objects  map[key]string // object ID of an identity, learned from its tokens
	failures *failures
	recent   *recentResources
}

// entry holds a token.
type entry struct {
	token atomic.Pointer[Token]
	used  atomic.Int64 // unix nanoseconds, 0: never

	request  Request     // the latest, for refreshes
	timer    *time.Timer // the next refresh, or the expiry
	failures int         // of refreshes, in a row
	// retryAt is when requests may start the next fetch although the token is valid: the source
	// fails, or returned no newer token.
	retryAt time.Time
	forced  time.Time // when a client last reported the token as revoked
	units   int       // of the token's size
}

// NewCache returns an empty cache. Its fetches end with ctx.
func NewCache(ctx context.Context, cfg CacheConfig) *Cache {
	return &Cache{
		cfg: cfg, ctx: ctx, entries: map[key]*entry{}, fetches: map[key]*fetch{},
		perID: map[key]int{}, perSpace: map[string]int{}, objects: map[key]string{},
		failures: newFailures(cfg.Max, cfg.MaxPerIdentity), recent: newRecentResources(),
	}
}

// Get returns a token for the request, from memory or from the source. The error has a refusal, or
// is ErrBusy or that of ctx.
func (c *Cache) Get(ctx context.Context, r Request) (*Token, Outcome, error) {
	k := keyOf(r)
	if r.Revoked == "" {
		if t, outcome := c.held(k); t != nil {
			return t, outcome, nil
		}
	}
	t, outcome, err := c.get(ctx, k, r)
	if errors.Is(err, ErrBusy) && outcome == Shared {
		// The fetch was in another pod's queue, which is full. This pod's own may have room.
		t, outcome, err = c.get(ctx, k, r)
	}
	return t, outcome, err
}

// held returns a token that can be handed out at once, and records its use.
func (c *Cache) held(k key) (*Token, Outcome) {
	now := time.Now()
	c.mu.RLock()
	e := c.entries[k]
	if e == nil {
		c.mu.RUnlock()
		return nil, Miss
	}
	t, outcome := e.token.Load(), Hit
	if !t.fresh(now) {
		if outcome = c.aging(k, e, now); outcome == Miss {
			t = nil
		}
	}
	c.mu.RUnlock()
	if t != nil {
		e.used.Store(now.UnixNano())
	}
	return t, outcome
}

// aging returns how to answer with a token that is no longer fresh: Hit if the source has no newer
// one, Stale if it does not answer, Miss if a newer one may be had. The lock is held, for reading.
func (c *Cache) aging(k key, e *entry, now time.Time) Outcome {
	f := c.fetches[k]
	switch {
	case !e.token.Load().valid(now):
		return Miss
	case f != nil && (e.failures > 0 || now.Sub(f.began) >= c.cfg.StaleAfter):
		return Stale
	case f == nil && now.Before(e.retryAt) && e.failures > 0:
		return Stale
	case f != nil && f.refresh, f == nil && now.Before(e.retryAt):
		return Hit
	default:
		return Miss
	}
}

// ticket is a request's answer, or the fetch that it waits for.
type ticket struct {
	fetch *fetch
	// old is a token that is still valid. It is the answer if the fetch fails or takes longer than
	// maxWait.
	old     *Token
	maxWait time.Duration
	outcome Outcome
	err     error
}

func (c *Cache) get(ctx context.Context, k key, r Request) (*Token, Outcome, error) {
	t := c.join(k, r) //nolint:contextcheck // a fetch outlives the request that started it
	if t.fetch == nil {
		return t.old, t.outcome, t.err
	}
	var timeout <-chan time.Time
	if t.old != nil {
		timer := time.NewTimer(t.maxWait)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-t.fetch.done:
	case <-timeout:
		return t.old, Stale, nil
	case <-ctx.Done():
		return nil, t.outcome, context.Cause(ctx)
	}
	if t.fetch.err == nil {
		return t.fetch.token, t.outcome, nil
	}
	if t.old.valid(time.Now()) {
		return t.old, Stale, nil
	}
	return nil, t.outcome, t.fetch.err
}

// join looks again, under the lock, and joins the fetch in flight or starts one.
func (c *Cache) join(k key, r Request) ticket {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	t, done := c.fromMemory(k, r, now)
	if done {
		return t
	}
	f := c.fetches[k]
	t.outcome = Shared
	if f == nil {
		if t.old == nil {
			if err := c.failures.recall(k, now); err != nil {
				return ticket{outcome: Refused, err: err}
			}
		}
		if len(c.fetches) >= c.cfg.Max {
			return ticket{old: t.old, outcome: Refused, err: busyUnless(t.old)}
		}
		f = c.start(k, r)
		t.outcome = Miss
	}
	f.want(r.Caller)
	t.fetch = f
	t.maxWait = max(t.maxWait-now.Sub(f.began), 0)
	return t
}

func busyUnless(old *Token) error {
	if old != nil {
		return nil
	}
	return ErrBusy
}

// fromMemory answers from the entry. done is false if there is none, or if the request must wait
// for a newer token. The lock is held.
func (c *Cache) fromMemory(k key, r Request, now time.Time) (t ticket, done bool) {
	e := c.entries[k]
	if e == nil {
		return t, false
	}
	e.used.Store(now.UnixNano())
	latest := r
	latest.Resource, latest.Revoked = e.request.Resource, "" // the same text, without the rest of a query
	e.request = latest
	held := e.token.Load()
	if !held.valid(now) {
		return t, false
	}
	t.old, t.maxWait = held, c.cfg.StaleAfter
	if e.failures > 0 {
		t.maxWait = 0
	}
	if r.Revoked != "" && held.hasSum(r.Revoked) && now.Sub(e.forced) >= forceInterval {
		// The token is of no use to this client, so it waits for the whole fetch.
		e.forced = now
		t.maxWait = c.cfg.FetchTimeout
		return t, false
	}
	if held.fresh(now) {
		return t, true
	}
	t.outcome = c.aging(k, e, now)
	return t, t.outcome != Miss
}

// forceInterval is how often clients may have a token replaced by reporting it as revoked: the
// source may return the same one again.
const forceInterval = 30 * time.Second

// ObjectID returns the object ID that tokens of the identity have, or "" while none is held.
func (c *Cache) ObjectID(r Request) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.objects[keyOf(r).identity()]
}
