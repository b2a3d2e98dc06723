// Series found fast and in bounded number.

package observe

import (
	"strings"
	"sync"
	"unicode/utf8"
)

// other is the label value of what came after the bound.
const other = "other"

// maxLabel is the longest label value kept, in bytes. The longest resource in
// use is a URL of some 60 bytes.
const maxLabel = 128

// children remembers the child of a vector for each key, since the vector's own
// look-up hashes every label of every request.
//
// Keys come from requests, so their number is bounded: per group (a namespace),
// and in all. Past a bound the key is replaced by its fallback, which has fewer
// values; should even that be too many, there is no child and the measurement
// is dropped.
type children[K comparable, C any] struct {
	make     func(K) (C, error)
	group    func(K) string // nil: one group
	fallback func(K) K      // nil: none
	max      int
	perGroup int

	mu     sync.RWMutex
	known  map[K]C
	groups map[string]int
}

func newChildren[K comparable, C any](
	limit, perGroup int, group func(K) string, fallback func(K) K, mk func(K) (C, error),
) *children[K, C] {
	return &children[K, C]{
		make: mk, group: group, fallback: fallback, max: limit, perGroup: perGroup,
		known: map[K]C{}, groups: map[string]int{},
	}
}

// get returns the child of key, or of its fallback.
func (c *children[K, C]) get(key K) (C, bool) {
	if child, ok := c.find(key); ok {
		return child, true
	}
	if child, ok := c.add(key); ok {
		return child, true
	}
	if c.fallback == nil {
		var none C
		return none, false
	}
	key = c.fallback(key)
	if child, ok := c.find(key); ok {
		return child, true
	}
	return c.addFallback(key)
}

func (c *children[K, C]) find(key K) (C, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	child, ok := c.known[key]
	return child, ok
}

// add makes the child of key unless a bound is reached.
func (c *children[K, C]) add(key K) (C, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	group := c.groupOf(key)
	if len(c.known) >= c.max || c.groups[group] >= c.perGroup {
		var none C
		return none, false
	}
	return c.put(key, group)
}

// addFallback makes the child of a fallback, for which there is as much room
// again.
func (c *children[K, C]) addFallback(key K) (C, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= 2*c.max {
		var none C
		return none, false
	}
	return c.put(key, c.groupOf(key))
}

func (c *children[K, C]) put(key K, group string) (C, bool) {
	if child, ok := c.known[key]; ok {
		return child, true // another request was faster
	}
	child, err := c.make(key)
	if err != nil {
		return child, false
	}
	c.known[key] = child
	c.groups[group]++
	return child, true
}

func (c *children[K, C]) groupOf(key K) string {
	if c.group == nil {
		return ""
	}
	return c.group(key)
}

// label makes a value that Prometheus takes from one that anybody sent.
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
