// Fetches of tokens from the source, and refreshes.

package token

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/reason"
)

// fetch is one call of the source. token and err are set before done closes. The cache's mu guards
// wanted.
type fetch struct {
	began time.Time
	// refresh marks a fetch that was started ahead of time, for a token in use.
	refresh bool
	// wanted means that a request has waited for it.
	wanted bool
	// wanting gets the first such caller of a fetch that was started in the Background. Nil
	// otherwise.
	wanting chan string
	done    chan struct{}
	token   *Token
	err     error
}

// want records that a caller waits for the fetch.
func (f *fetch) want(caller string) {
	if !f.wanted && f.wanting != nil {
		f.wanting <- caller // has room for one
	}
	f.wanted = true
}

// start starts a fetch for a key that has none. The lock is held.
func (c *Cache) start(k key, r Request) *fetch {
	f := &fetch{began: time.Now(), done: make(chan struct{})}
	// The key is kept. Without the clone, the whole query that it is a part of would be kept too.
	k.resource = strings.Clone(k.resource)
	r.Resource = k.resource
	if r.Caller == Background {
		f.wanting = make(chan string, 1)
		r.Wanted = f.wanting
	}
	c.fetches[k] = f
	go c.run(k, f, r)
	return f
}

func (c *Cache) run(k key, f *fetch, r Request) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.FetchTimeout)
	defer cancel()
	t, err := c.cfg.Source.Token(ctx, r)
	if err == nil {
		t.hash()
		t.units = 1 + (t.Size()+len(r.Resource))/unit
		t.Body, err = c.cfg.Render(t, r)
		t.Fields = nil
	}
	if err == nil {
		f.token = t
	}
	f.err = err
	c.complete(k, f, r)
	close(f.done)
}

// complete stores the result of a fetch.
func (c *Cache) complete(k key, f *fetch, r Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.fetches, k)
	now := time.Now()
	e := c.entries[k]
	if f.err != nil {
		c.fail(k, e, f, now)
		return
	}
	c.failures.success(k, now)
	f.token.since = f.token.Obtained
	if e == nil {
		e = c.add(k, f.token.units, now)
		r.Revoked, r.Wanted = "", nil
		e.request = r
	} else if old := e.token.Load(); !f.token.ExpiresOn.After(old.ExpiresOn) {
		// The source has a cache of its own and returned the same token again.
		f.token.since = old.since
	}
	c.resize(k, e, f.token.units, now)
	e.token.Store(f.token)
	e.failures = 0
	if f.wanted {
		e.used.Store(now.UnixNano())
		c.recent.record(k, now)
	}
	if f.token.ObjectID != "" {
		c.objects[k.identity()] = f.token.ObjectID
	}
	c.schedule(k, e, f.token.refreshIn(now, rand.Float64()), now) //nolint:gosec // spreads load, guards nothing
}

// fail keeps a token that is still valid, or else remembers the failure.
func (c *Cache) fail(k key, e *entry, f *fetch, now time.Time) {
	if e != nil {
		if t := e.token.Load(); t.valid(now) {
			e.failures++
			c.schedule(k, e, t.retryIn(now, e.failures, f.err), now)
			return
		}
		c.remove(k, e)
	}
	c.failures.record(k, f.err, now)
}

// maxRetry is the longest pause between two refreshes that fail.
const maxRetry = 2 * time.Minute

// retryIn returns how long to wait after so many failed refreshes: 2 s, 4 s … 2 min, less toward
// the token's expiry, and at least the source's Retry-After.
func (t *Token) retryIn(now time.Time, failures int, err error) time.Duration {
	in := min(time.Second<<min(failures, 7), maxRetry)
	in = min(in, max(t.ExpiresOn.Sub(now)/2, time.Second))
	if f := reason.AsRefusal(err); f != nil {
		in = max(in, min(f.RetryAfter, maxRetry))
	}
	return in
}

// retryGrace lets a refresh that is due start before a request starts it, which would wait for it.
const retryGrace = time.Second

func (c *Cache) schedule(k key, e *entry, in time.Duration, now time.Time) {
	if e.timer != nil {
		e.timer.Stop()
	}
	e.retryAt = now.Add(in + retryGrace)
	e.timer = time.AfterFunc(in, func() { c.due(k, e) })
}

// due refreshes an entry that is in use. It keeps an unused one until its token expires.
func (c *Cache) due(k key, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[k] != e || c.fetches[k] != nil || c.ctx.Err() != nil {
		return
	}
	now, t := time.Now(), e.token.Load()
	switch {
	case !t.valid(now):
		c.remove(k, e)
	case e.used.Load() < t.Obtained.UnixNano():
		// A request may still start a fetch when the token is no longer fresh.
		c.schedule(k, e, t.ExpiresOn.Sub(now), now)
		e.retryAt = time.Time{}
	case len(c.fetches) >= c.cfg.Max:
		c.schedule(k, e, time.Second, now)
	default:
		c.recent.record(k, now)
		r := e.request
		r.Caller = refreshCaller(r.Identity)
		c.start(k, r).refresh = true
	}
}

// refreshCaller returns the Caller of refreshes. They share the turns of the identity's namespace
// like one more pod, under a name that no pod has.
func refreshCaller(id *v1.AzureIdentity) string { return id.Namespace + "/ refresh" }
