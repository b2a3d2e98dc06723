// A fast lookup of series, bounded in number.

package observe

import (
	"strings"
	"sync"
	"unicode/utf8"
)

// other is the label value for series beyond the limit.
const other = "other"

// maxLabel is the longest label value kept, in bytes. The longest resource in use is a URL of some
// 60 bytes.
const maxLabel = 128

// children caches the child of a vector for each key, since the vector's own lookup hashes every
// label of every request.
//
// Keys come from requests, so their number is bounded per group (a namespace) and in all. Beyond a
// limit the key is replaced by its fallback, which has fewer values and as much room again. If
// there is no room for that either, the measurement is dropped. Nothing is ever evicted: a series
// that vanishes and comes back looks like a restart.
type children[K comparable, C any] struct {
	create   func(K) (C, error)
	own      func(K) K      // a copy that keeps nothing of the request alive; nil: the key itself
	group    func(K) string // nil: all keys are one group
	fallback func(K) K      // nil: none
	max      int
	perGroup int

	mu     sync.RWMutex
	known  map[K]C
	groups map[string]int
}

// get returns the child of key, or of its fallback.
func (c *children[K, C]) get(key K) (C, bool) {
	if child, ok := c.find(key); ok {
		return child, true
	}
	if child, ok := c.add(key, c.max, c.perGroup); ok || c.fallback == nil {
		return child, ok
	}
	key = c.fallback(key)
	if child, ok := c.find(key); ok {
		return child, true
	}
	return c.add(key, 2*c.max, 2*c.max)
}

func (c *children[K, C]) find(key K) (C, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	child, ok := c.known[key]
	return child, ok
}

// add creates the child of key unless a limit is reached.
func (c *children[K, C]) add(key K, limit, perGroup int) (child C, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if child, ok = c.known[key]; ok {
		return child, true // another request was faster
	}
	group := c.groupOf(key)
	if len(c.known) >= limit || c.groups[group] >= perGroup {
		return child, false
	}
	child, err := c.create(key)
	if err != nil {
		return child, false
	}
	if c.known == nil {
		c.known, c.groups = map[K]C{}, map[string]int{}
	}
	if c.own != nil {
		key = c.own(key)
	}
	c.known[key] = child
	c.groups[c.groupOf(key)]++
	return child, true
}

func (c *children[K, C]) groupOf(key K) string {
	if c.group == nil {
		return ""
	}
	return c.group(key)
}

// label returns a client's value in a form that Prometheus accepts.
func label(value string) string {
	value = strings.ToValidUTF8(value, "?")
	if len(value) <= maxLabel {
		return value
	}
	cut := maxLabel
	for !utf8.RuneStart(value[cut]) {
		cut--
	}
	return value[:cut]
}
