// The cache in front of the sources.

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
	// Hit: a fresh token was held, or the newest there is.
	Hit Outcome = iota
	// Miss: the source was asked.
	Miss
	// Shared: the source was being asked for the same already.
	Shared
	// Stale: the source has trouble, and a token still valid was held.
	Stale
	// Refused: the source had no token a moment ago, and was left alone.
	Refused
)

// CacheConfig is what a Cache needs.
type CacheConfig struct {
	Source Source
	// Render makes the reply of a new token; an error is as if the source had
	// failed.
	Render func(*Token, Request) (Body, error)
	// Max is how many tokens are held in all, MaxPerIdentity for one identity,
	// so that a pod that asks for ever new resources displaces its own tokens
	// only; one of more than 8 KiB counts as several. When all are held, the
	// namespace that holds most displaces its own. As many failures are
	// remembered, and Max flights under way at most.
	Max, MaxPerIdentity int
	// FlightTime is the most one attempt to get a token may take, retries and
	// queueing included.
	FlightTime time.Duration
	// Patience is how long after a flight began requests wait for the new token
	// while an old one is still valid.
	Patience time.Duration
	// Entries is told the number of tokens held; may be nil.
	Entries func(int)
}

// Cache holds the tokens of the node.
//
// For each key (identity and resource) there is at most one entry, a token held,
// and at most one flight, a call to the source under way. A request finds a
// fresh token and takes it, or joins the flight, or starts it; the flight
// belongs to nobody, so a client that leaves neither ends it nor wastes it. Only
// a token that came makes an entry, so that what cannot be had displaces nothing.
//
// A token is refreshed ahead of its expiry as long as somebody asked for it
// since it came; so an entry that nobody uses is refreshed once more at most,
// and dropped when it expires. While the source is down, a token is served as
// long as it is valid, and the source asked again at growing intervals. Only the
// requests of the first moment wait, and only when the token was not in use: for
// one in use the refresh began long before anybody had to care.
//
// What the source refused is remembered for some seconds; see failures.
//
// Tokens are immutable. An entry's token and last use are atomic, for the
// request path; everything else is guarded by mu.
type Cache struct {
	cfg CacheConfig
	ctx context.Context // of all flights; ends with the process

	mu       sync.RWMutex
	entries  map[key]*entry
	flights  map[key]*flight
	units    int            // of all entries
	perID    map[key]int    // units of an identity's entries
	perSpace map[string]int // units of a namespace's entries
	objects  map[key]string // object id of an identity, learned from its tokens
	failures *failures
	habits   *habits
}

// entry is a token held.
type entry struct {
	token atomic.Pointer[Token]
	used  atomic.Int64 // unix nanoseconds; 0: by nobody

	request  Request     // the latest, for refreshes
	timer    *time.Timer // the next refresh, or the end
	failures int         // of refreshes, in a row
	// retryAt is when requests may start the next flight although the token is
	// valid: the source fails, or gave nothing newer.
	retryAt time.Time
	forced  time.Time // when a client last had the token replaced
	units   int       // of the token's size
}

// NewCache returns an empty cache. Its flights end with ctx.
func NewCache(ctx context.Context, cfg CacheConfig) *Cache {
	return &Cache{
		cfg: cfg, ctx: ctx, entries: map[key]*entry{}, flights: map[key]*flight{},
		perID: map[key]int{}, perSpace: map[string]int{}, objects: map[key]string{}, failures: newFailures(cfg.Max, cfg.MaxPerIdentity), habits: newHabits(),
	}
}

// Get returns a token for the request, from memory or from the source. The
// error is a *Failure, ErrBusy, or that of ctx.
func (c *Cache) Get(ctx context.Context, r Request) (*Token, Outcome, error) {
	k := keyOf(r)
	if r.Revoked == "" {
		if t, outcome := c.held(k); t != nil {
			return t, outcome, nil
		}
	}
	t, outcome, err := c.fetch(ctx, k, r)
	if errors.Is(err, ErrBusy) && outcome == Shared {
		// The flight stood in another pod's queue, which is full; this pod's
		// may not be.
		t, outcome, err = c.fetch(ctx, k, r)
	}
	return t, outcome, err
}

// held returns a token that can be handed out at once, and notes that it was
// used.
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
		if outcome = c.settled(k, e, now); outcome == Miss {
			t = nil
		}
	}
	c.mu.RUnlock()
	if t != nil {
		e.used.Store(now.UnixNano())
	}
	return t, outcome
}

// settled tells of a token that is no longer fresh whether it is the best there
// is for now: Hit when the source has no newer one, Stale when it does not
// answer, Miss when a newer one may be had. The lock is held, for reading.
func (c *Cache) settled(k key, e *entry, now time.Time) Outcome {
	f := c.flights[k]
	switch {
	case !e.token.Load().valid(now):
		return Miss
	case f != nil && (e.failures > 0 || now.Sub(f.began) >= c.cfg.Patience):
		return Stale
	case f == nil && now.Before(e.retryAt) && e.failures > 0:
		return Stale
	case f != nil && f.refresh, f == nil && now.Before(e.retryAt):
		return Hit
	default:
		return Miss
	}
}

// seat is a request's place: with a flight to wait for, or without one the
// answer.
type seat struct {
	flight *flight
	// old is a token that is still valid, for when the flight brings none, or
	// none within patience of its beginning.
	old      *Token
	patience time.Duration
	outcome  Outcome
	err      error
}

func (c *Cache) fetch(ctx context.Context, k key, r Request) (*Token, Outcome, error) {
	s := c.board(k, r) //nolint:contextcheck // a flight serves all who ask, and outlives the one who asked first
	if s.flight == nil {
		return s.old, s.outcome, s.err
	}
	var impatient <-chan time.Time
	if s.old != nil {
		timer := time.NewTimer(s.patience)
		defer timer.Stop()
		impatient = timer.C
	}
	select {
	case <-s.flight.done:
	case <-impatient:
		return s.old, Stale, nil
	case <-ctx.Done():
		return nil, s.outcome, context.Cause(ctx)
	}
	if s.flight.err == nil {
		return s.flight.token, s.outcome, nil
	}
	if s.old.valid(time.Now()) {
		return s.old, Stale, nil
	}
	return nil, s.outcome, s.flight.err
}

// board looks a second time, under the lock, and finds the request a seat in a
// flight, which it starts when there is none.
func (c *Cache) board(k key, r Request) seat {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	s, done := c.fromMemory(k, r, now)
	if done {
		return s
	}
	f := c.flights[k]
	s.outcome = Shared
	if f == nil {
		if s.old == nil {
			if err := c.failures.recall(k, now); err != nil {
				return seat{outcome: Refused, err: err}
			}
		}
		if len(c.flights) >= c.cfg.Max {
			return seat{old: s.old, outcome: Refused, err: busyUnless(s.old)}
		}
		f = c.launch(k, r)
		s.outcome = Miss
	}
	f.want(r.Caller)
	s.flight = f
	s.patience = max(s.patience-now.Sub(f.began), 0)
	return s
}

func busyUnless(old *Token) error {
	if old != nil {
		return nil
	}
	return ErrBusy
}

// fromMemory answers from the entry; done is false when a newer token is to be
// waited for, or there is none. The lock is held.
func (c *Cache) fromMemory(k key, r Request, now time.Time) (s seat, done bool) {
	e := c.entries[k]
	if e == nil {
		return s, false
	}
	e.used.Store(now.UnixNano())
	latest := r
	latest.Resource, latest.Revoked = e.request.Resource, "" // the same text, without the rest of a query
	e.request = latest
	t := e.token.Load()
	if !t.valid(now) {
		return s, false
	}
	s.old, s.patience = t, c.cfg.Patience
	if e.failures > 0 {
		s.patience = 0
	}
	if r.Revoked != "" && t.hasSum(r.Revoked) && now.Sub(e.forced) >= forceInterval {
		// It is of no use to this client, so there is no hurry to hand it out.
		e.forced = now
		s.patience = c.cfg.FlightTime
		return s, false
	}
	if t.fresh(now) {
		return s, true
	}
	s.outcome = c.settled(k, e, now)
	return s, s.outcome != Miss
}

// forceInterval is how often a client may have a token replaced that it says was
// revoked: the source may give the same one again.
const forceInterval = 30 * time.Second

// ObjectID is the object id that tokens of the identity carried, "" while none
// is held.
func (c *Cache) ObjectID(r Request) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.objects[keyOf(r).identity()]
}
