// Endpoints that asked not to be called for a while.

package entra

import (
	"sync"
	"time"

	"github.com/podid-io/podid/internal/agent/token/source"
)

// cooldown remembers until when not to call an endpoint for a client. It holds at most maxCooldowns
// entries: a full one drops the entry that ends first, of the namespace that has the most. It is
// safe for concurrent use.
type cooldown struct {
	mu    sync.Mutex
	until map[cooldownKey]time.Time
}

// cooldownKey is an endpoint with the client that it throttles, as a namespace's identities name
// it.
type cooldownKey struct{ namespace, endpoint string }

const maxCooldowns = 256

func newCooldown() *cooldown { return &cooldown{until: map[cooldownKey]time.Time{}} }

func (c *cooldown) start(key cooldownKey, d time.Duration, now time.Time) {
	if d <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.until[key]; !known && len(c.until) >= maxCooldowns {
		c.evict(key.namespace)
	}
	c.until[key] = now.Add(d)
}

// evict drops the entry that ends first, of the namespace that has the most: the given one, if none
// has more.
func (c *cooldown) evict(namespace string) {
	count := map[string]int{}
	for key := range c.until {
		count[key.namespace]++
	}
	for other, n := range count {
		if n > count[namespace] {
			namespace = other
		}
	}
	var soonest cooldownKey
	for key, until := range c.until {
		if key.namespace == namespace && (soonest == cooldownKey{} || until.Before(c.until[soonest])) {
			soonest = key
		}
	}
	delete(c.until, soonest)
}

// left returns how long the cooldown still lasts.
func (c *cooldown) left(key cooldownKey, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.until[key]
	if !ok {
		return 0
	}
	left := until.Sub(now)
	if left <= 0 || left > source.MaxCooldown { // more only if the node's clock was set back
		delete(c.until, key)
		return 0
	}
	return left
}
