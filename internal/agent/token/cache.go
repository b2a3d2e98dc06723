// The cache in front of the sources.

package token

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Outcome is how the cache answered.
type Outcome int

// The outcomes.
const (
	// Hit: a fresh token was held.
	Hit Outcome = iota
	// Miss: the source was asked.
	Miss
	// Shared: the source was being asked for the same already.
	Shared
	// Stale: the source has trouble, and a token still valid was held.
	Stale
)

// CacheConfig is what a Cache needs.
type CacheConfig struct {
	Source Source
	// Render makes the reply of a new token; an error is as if the source had
	// failed.
	Render func(*Token, Request) (Body, error)
	// Max is how many tokens are held in all, MaxPerIdentity for one identity,
	// so that a pod that asks for ever new resources displaces its own tokens
	// only.
	Max, MaxPerIdentity int
	// FlightTime is the most one attempt to get a token may take, retries and
	// queueing included.
	FlightTime time.Duration
	// Patience is how long a request waits for a new token while an old one is
	// still valid.
	Patience time.Duration
	// Entries is told the number of tokens held; may be nil.
	Entries func(int)
}

// Cache holds the tokens of the node.
//
// For each key (identity and resource) there is at most one entry and at most
// one flight, a call to the source under way. A request finds a fresh token and
// takes it, or joins the flight, or starts it; the flight belongs to nobody, so
// a client that leaves neither ends it nor wastes it. Failures are not kept.
//
// A token is refreshed ahead of its expiry as long as somebody asked for it
// since it came; so an entry that nobody uses is refreshed once more at most,
// and dropped when it expires. While the source is down, a token is served as
// long as it is valid, and the source asked again at growing intervals.
//
// Tokens are immutable. An entry's token and last use are atomic, for the
// request path; everything else is guarded by mu.
type Cache struct {
	cfg CacheConfig
	ctx context.Context // of all flights; ends with the process

	mu      sync.RWMutex
	entries map[key]*entry
	perID   map[key]int    // entries of an identity
	objects map[key]string // object id of an identity, learned from its tokens
}

type entry struct {
	token atomic.Pointer[Token]
	used  atomic.Int64 // unix nanoseconds

	request  Request // the latest, for refreshes
	flight   *flight
	timer    *time.Timer // the next refresh, or the end
	failures int         // in a row
	retryAt  time.Time   // not before, while the source fails and the token is valid
}

// flight is one call to the source. token and err are set before done closes.
type flight struct {
	// wanted tells that a request waits or waited for it: it is no refresh.
	// Guarded by the cache's mu.
	wanted bool
	done   chan struct{}
	token  *Token
	err    error
}

// NewCache returns an empty cache. Its flights end with ctx.
func NewCache(ctx context.Context, cfg CacheConfig) *Cache {
	return &Cache{cfg: cfg, ctx: ctx, entries: map[key]*entry{}, perID: map[key]int{}, objects: map[key]string{}}
}

// Get returns a token for the request, from memory or from the source. The
// error is a *Failure, ErrBusy, or that of ctx.
func (c *Cache) Get(ctx context.Context, r Request) (*Token, Outcome, error) {
	k := keyOf(r)
	if t := c.held(k); t != nil {
		return t, Hit, nil
	}
	t, outcome, err := c.fetch(ctx, k, r)
	if errors.Is(err, ErrBusy) && outcome == Shared {
		// The flight stood in another pod's queue, which is full; this pod's
		// may not be.
		t, outcome, err = c.fetch(ctx, k, r)
	}
	return t, outcome, err
}

// held returns a fresh token and notes that it was used.
func (c *Cache) held(k key) *Token {
	c.mu.RLock()
	e := c.entries[k]
	c.mu.RUnlock()
	if e == nil {
		return nil
	}
	now := time.Now()
	t := e.token.Load()
	if !t.fresh(now) {
		return nil
	}
	e.used.Store(now.UnixNano())
	return t
}

func (c *Cache) fetch(ctx context.Context, k key, r Request) (*Token, Outcome, error) {
	//nolint:contextcheck // a flight serves all who ask, and outlives the one who asked first
	old, f, outcome := c.join(k, r)
	if f == nil {
		return old, outcome, nil
	}
	var impatient <-chan time.Time
	if old != nil {
		timer := time.NewTimer(c.cfg.Patience)
		defer timer.Stop()
		impatient = timer.C
	}
	select {
	case <-f.done:
	case <-impatient:
		return old, Stale, nil
	case <-ctx.Done():
		return nil, outcome, context.Cause(ctx)
	}
	if f.err == nil {
		return f.token, outcome, nil
	}
	if old.valid(time.Now()) {
		return old, Stale, nil
	}
	return nil, outcome, f.err
}

// join looks a second time, under the lock, and returns the flight to wait for,
// started when there is none. old is a token that is still valid, or nil; with
// no flight it is the answer.
func (c *Cache) join(k key, r Request) (old *Token, f *flight, outcome Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	e := c.entries[k]
	if e == nil {
		e = c.add(k, now)
	}
	e.request = r
	e.used.Store(now.UnixNano())
	if t := e.token.Load(); t.valid(now) {
		if t.fresh(now) {
			return t, nil, Hit
		}
		old = t
	}
	outcome = Shared
	if e.flight == nil {
		if old != nil && now.Before(e.retryAt) {
			return old, nil, Stale
		}
		c.launch(k, e)
		outcome = Miss
	}
	e.flight.wanted = true
	return old, e.flight, outcome
}

// launch starts the flight of an entry that has none.
func (c *Cache) launch(k key, e *entry) {
	e.flight = &flight{done: make(chan struct{})}
	go c.fly(k, e, e.flight, e.request)
}

func (c *Cache) fly(k key, e *entry, f *flight, r Request) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.FlightTime)
	defer cancel()
	f.token, f.err = c.cfg.Source.Token(ctx, r)
	if f.err == nil {
		f.token.Body, f.err = c.cfg.Render(f.token, r)
		f.token.Fields = nil
	}
	c.land(k, e, f)
	close(f.done)
}

// land keeps what a flight brought.
func (c *Cache) land(k key, e *entry, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.flight = nil
	if c.entries[k] != e {
		return // evicted meanwhile; the waiters still get the token
	}
	now := time.Now()
	if f.err != nil {
		c.landEmpty(k, e, now)
		return
	}
	e.failures, e.retryAt = 0, time.Time{}
	e.token.Store(f.token)
	if f.wanted {
		e.used.Store(now.UnixNano())
	}
	if f.token.ObjectID != "" {
		c.objects[k.identity()] = f.token.ObjectID
	}
	c.schedule(k, e, f.token.refreshIn(now, rand.Float64())) //nolint:gosec // spreads load, guards nothing
}

// landEmpty keeps a valid token for as long as it lasts and forgets an entry
// that has none.
func (c *Cache) landEmpty(k key, e *entry, now time.Time) {
	if !e.token.Load().valid(now) {
		c.remove(k, e)
		return
	}
	e.failures++
	// 2 s, 4 s … 2 min.
	wait := min(time.Second<<min(e.failures, 7), 2*time.Minute)
	e.retryAt = now.Add(wait)
	c.schedule(k, e, wait)
}

func (c *Cache) schedule(k key, e *entry, in time.Duration) {
	if e.timer != nil {
		e.timer.Stop()
	}
	e.timer = time.AfterFunc(in, func() { c.due(k, e) })
}

// due refreshes an entry that is in use, and otherwise keeps it until its token
// expires.
func (c *Cache) due(k key, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[k] != e || e.flight != nil || c.ctx.Err() != nil {
		return
	}
	now, t := time.Now(), e.token.Load()
	switch {
	case !t.valid(now):
		c.remove(k, e)
	case e.used.Load() < t.Obtained.UnixNano():
		c.schedule(k, e, t.ExpiresOn.Sub(now))
	default:
		c.launch(k, e)
	}
}

// add makes the entry of k, and room for it.
func (c *Cache) add(k key, now time.Time) *entry {
	if c.perID[k.identity()] >= c.cfg.MaxPerIdentity {
		c.evict(now, func(other key) bool { return other.identity() == k.identity() })
	}
	if len(c.entries) >= c.cfg.Max {
		c.evict(now, func(key) bool { return true })
	}
	e := &entry{}
	c.entries[k] = e
	c.perID[k.identity()]++
	c.count()
	return e
}

// evict removes the entry that was not used for longest, of those that qualify
// and have no flight. Entries with a flight are bounded by the limiter in front
// of the source. The scan is over a few thousand entries at most, and happens
// only when a cache that is full meets a new key.
func (c *Cache) evict(now time.Time, qualifies func(key) bool) {
	var victim key
	oldest := now.UnixNano() + 1
	for k, e := range c.entries {
		if used := e.used.Load(); e.flight == nil && used < oldest && qualifies(k) {
			victim, oldest = k, used
		}
	}
	if e := c.entries[victim]; e != nil {
		c.remove(victim, e)
	}
}

func (c *Cache) remove(k key, e *entry) {
	if e.timer != nil {
		e.timer.Stop()
	}
	delete(c.entries, k)
	id := k.identity()
	if c.perID[id]--; c.perID[id] <= 0 {
		delete(c.perID, id)
		delete(c.objects, id)
	}
	c.count()
}

func (c *Cache) count() {
	if c.cfg.Entries != nil {
		c.cfg.Entries(len(c.entries))
	}
}

// ObjectID is the object id that tokens of the identity carried, "" while none
// is held.
func (c *Cache) ObjectID(r Request) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.objects[keyOf(r).identity()]
}
