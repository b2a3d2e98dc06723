// A call to the source under way, and what becomes of what it brings.

package token

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
)

// flight is one call to the source. token and err are set before done closes.
// wanted is guarded by the cache's mu.
type flight struct {
	began time.Time
	// refresh tells that it was started ahead of time, for a token in use.
	refresh bool
	// wanted tells that a request waits or waited for it.
	wanted bool
	// wanting takes the first who does, of a flight that nobody wanted at first;
	// nil of the others.
	wanting chan string
	done    chan struct{}
	token   *Token
	err     error
}

// want notes that a caller waits for the flight.
func (f *flight) want(caller string) {
	if !f.wanted && f.wanting != nil {
		f.wanting <- caller // has room for the one
	}
	f.wanted = true
}

// launch starts a flight for a key that has none. The lock is held.
func (c *Cache) launch(k key, r Request) *flight {
	f := &flight{began: time.Now(), done: make(chan struct{})}
	// It is kept from here on, and without this a whole query would be with it.
	k.resource = strings.Clone(k.resource)
	r.Resource = k.resource
	if r.Caller == Background {
		f.wanting = make(chan string, 1)
		r.Wanted = f.wanting
	}
	c.flights[k] = f
	go c.fly(k, f, r)
	return f
}

func (c *Cache) fly(k key, f *flight, r Request) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.FlightTime)
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
	c.land(k, f, r)
	close(f.done)
}

// land keeps what a flight brought.
func (c *Cache) land(k key, f *flight, r Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flights, k)
	now := time.Now()
	e := c.entries[k]
	if f.err != nil {
		c.landEmpty(k, e, f, now)
		return
	}
	c.failures.success(k, now)
	f.token.since = f.token.Obtained
	if e == nil {
		e = c.add(k, f.token.units, now)
		r.Revoked, r.Wanted = "", nil
		e.request = r
	} else if old := e.token.Load(); !f.token.ExpiresOn.After(old.ExpiresOn) {
		// The source has a cache of its own and gave the same token again.
		f.token.since = old.since
	}
	c.resize(k, e, f.token.units, now)
	e.token.Store(f.token)
	e.failures = 0
	if f.wanted {
		e.used.Store(now.UnixNano())
		c.habits.note(k, now)
	}
	if f.token.ObjectID != "" {
		c.objects[k.identity()] = f.token.ObjectID
	}
	c.schedule(k, e, f.token.refreshIn(now, rand.Float64()), now) //nolint:gosec // spreads load, guards nothing
}

// landEmpty keeps a valid token for as long as it lasts, and else remembers the
// failure.
func (c *Cache) landEmpty(k key, e *entry, f *flight, now time.Time) {
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

// retryIn is how long to leave a source alone that failed to refresh the token
// so many times: 2 s, 4 s … 2 min, more often towards the token's end, and as
// long as the source itself wished.
func (t *Token) retryIn(now time.Time, failures int, err error) time.Duration {
	in := min(time.Second<<min(failures, 7), maxRetry)
	in = min(in, max(t.ExpiresOn.Sub(now)/2, time.Second))
	if f := AsFailure(err); f != nil {
		in = max(in, min(f.RetryAfter, maxRetry))
	}
	return in
}

// retryGrace lets the refresh that is due begin before a request would start it,
// which then would wait for it.
const retryGrace = time.Second

func (c *Cache) schedule(k key, e *entry, in time.Duration, now time.Time) {
	if e.timer != nil {
		e.timer.Stop()
	}
	e.retryAt = now.Add(in + retryGrace)
	e.timer = time.AfterFunc(in, func() { c.due(k, e) })
}

// due refreshes an entry that is in use, and otherwise keeps it until its token
// expires.
func (c *Cache) due(k key, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[k] != e || c.flights[k] != nil || c.ctx.Err() != nil {
		return
	}
	now, t := time.Now(), e.token.Load()
	switch {
	case !t.valid(now):
		c.remove(k, e)
	case e.used.Load() < t.Obtained.UnixNano():
		// Whoever comes after all may ask for a newer one when this is old.
		c.schedule(k, e, t.ExpiresOn.Sub(now), now)
		e.retryAt = time.Time{}
	case len(c.flights) >= c.cfg.Max:
		c.schedule(k, e, time.Second, now)
	default:
		c.habits.note(k, now)
		r := e.request
		r.Caller = refreshCaller(r.Identity)
		c.launch(k, r).refresh = true
	}
}

// refreshCaller is the Caller of refreshes: they share the turns of the identity's namespace as one
// more pod does, under a name that no pod has.
func refreshCaller(id *v1.AzureIdentity) string { return id.Namespace + "/ refresh" }

// unit is what a token counts in: most are smaller, and those of a hundred tenants
// together are several. An authority that answers with ever larger tokens thereby
// fills its identity's share and no more.
const unit = 8 << 10

// add makes the entry of k, and room for its token, which must be set under the
// same lock.
func (c *Cache) add(k key, units int, now time.Time) *entry {
	c.makeRoom(k, units, now)
	e := &entry{units: units}
	c.entries[k] = e
	c.tally(k, units)
	c.count()
	return e
}

// resize makes room for a token that is larger than the one before.
func (c *Cache) resize(k key, e *entry, units int, now time.Time) {
	more := units - e.units
	if more > 0 {
		c.makeRoom(k, more, now)
	}
	e.units = units
	c.tally(k, more)
}

// tally adds to the units held.
func (c *Cache) tally(k key, more int) {
	id := k.identity()
	c.units += more
	if c.perID[id] += more; c.perID[id] <= 0 {
		delete(c.perID, id)
		delete(c.objects, id)
	}
	if c.perSpace[k.namespace] += more; c.perSpace[k.namespace] <= 0 {
		delete(c.perSpace, k.namespace)
	}
}

// makeRoom removes others for the sake of k.
func (c *Cache) makeRoom(k key, units int, now time.Time) {
	id := k.identity()
	own := func(other key) bool { return other != k && other.identity() == id }
	for c.perID[id]+units > c.cfg.MaxPerIdentity && c.evict(now, own) {
	}
	for c.units+units > c.cfg.Max {
		most := c.greediest(k.namespace)
		theirs := func(other key) bool { return other != k && other.namespace == most }
		if !c.evict(now, theirs) && !c.evict(now, func(other key) bool { return other != k }) {
			return
		}
	}
}

// greediest is the namespace that holds most, the given one if none holds more.
func (c *Cache) greediest(namespace string) string {
	for other, units := range c.perSpace {
		if units > c.perSpace[namespace] {
			namespace = other
		}
	}
	return namespace
}

// evict removes the entry that was not used for longest, of those that qualify;
// false when there is none. The scan is over a few thousand entries at most, and
// happens only when a token comes for which a full cache has no place.
func (c *Cache) evict(now time.Time, qualifies func(key) bool) bool {
	var victim key
	oldest := now.UnixNano() + 1
	for k, e := range c.entries {
		if used := e.used.Load(); used < oldest && qualifies(k) {
			victim, oldest = k, used
		}
	}
	e := c.entries[victim]
	if e == nil {
		return false
	}
	c.remove(victim, e)
	return true
}

func (c *Cache) remove(k key, e *entry) {
	if e.timer != nil {
		e.timer.Stop()
	}
	delete(c.entries, k)
	c.tally(k, -e.units)
	c.count()
}

func (c *Cache) count() {
	if c.cfg.Entries != nil {
		c.cfg.Entries(len(c.entries))
	}
}
