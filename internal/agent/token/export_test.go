// Helpers for the tests of the cache with the real sources (package token_test).

package token

import "time"

// FakeEntitlements is for Prefetch.
type FakeEntitlements = fakeEntitlements

// The helpers of this package's own tests.
var (
	Ask                 = ask
	MustGet             = mustGet
	Pass                = pass
	NewFakeEntitlements = newFakeEntitlements
)

// Valid reports whether a token can still be used.
func Valid(t *Token) bool { return t.valid(time.Now()) }

// Held returns how many tokens a cache holds.
func Held(c *Cache) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

// HeldUntil returns when the token that a cache holds for a request expires. It is zero for none.
func HeldUntil(c *Cache, r Request) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[keyOf(r)]; e != nil {
		return e.token.Load().ExpiresOn
	}
	return time.Time{}
}
