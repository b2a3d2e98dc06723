// The entries of the cache, and their eviction.

package token

import "time"

// unit is the size that tokens are counted in. Most tokens are smaller. The tokens of a hundred
// tenants count as several, so an authority that returns ever larger tokens fills only its
// identity's share.
const unit = 8 << 10

// add makes the entry of k and room for its token. The caller sets the token under the same lock.
func (c *Cache) add(k key, units int, now time.Time) *entry {
	c.makeRoom(k, units, now)
	e := &entry{units: units}
	c.entries[k] = e
	c.tally(k, units)
	c.count()
	return e
}

// resize makes room for a token that is larger than the previous one.
func (c *Cache) resize(k key, e *entry, units int, now time.Time) {
	more := units - e.units
	if more > 0 {
		c.makeRoom(k, more, now)
	}
	e.units = units
	c.tally(k, more)
}

// tally adds to the units that are held.
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

// makeRoom evicts other entries in favor of k.
func (c *Cache) makeRoom(k key, units int, now time.Time) {
	id := k.identity()
	own := func(other key) bool { return other != k && other.identity() == id }
	for c.perID[id]+units > c.cfg.MaxPerIdentity && c.evict(now, own) {
	}
	for c.units+units > c.cfg.Max {
		most := largest(c.perSpace, k.namespace)
		theirs := func(other key) bool { return other != k && other.namespace == most }
		if !c.evict(now, theirs) && !c.evict(now, func(other key) bool { return other != k }) {
			return
		}
	}
}

// largest returns the namespace with the largest count, or the given one if none has more.
func largest(count map[string]int, namespace string) string {
	for other, n := range count {
		if n > count[namespace] {
			namespace = other
		}
	}
	return namespace
}

// evict removes the least recently used entry of those that qualify. It returns false if there is
// none. It scans a few thousand entries at most, and only when a token comes to a full cache.
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
