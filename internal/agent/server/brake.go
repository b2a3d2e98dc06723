// What keeps a flood of bad requests of one pod from costing the others.

package server

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// brake counts what came to nothing, for each address: requests that were
// refused, and connections without a request. Beyond a rate that no honest
// client comes near, answers to such requests are delayed, and so the pod's next
// ones on the same connections; and new connections are turned away. Requests
// that are answered with a token are never slowed down.
type brake struct {
	mu    sync.Mutex
	sins  map[netip.Addr]*sins
	purge time.Time // when to look for entries that can go
}

// sins is what an address still has to atone for: n of them at the time, less
// badRate a second since.
type sins struct {
	n  float64
	at time.Time
}

const (
	// badRate is how many bad requests a second cost nothing, a few hundredths of
	// a core; badBurst how many at a time. A client's probe is one such request,
	// and a pod that starts has some dozens of clients at the most.
	badRate, badBurst = 400, 2000
	// badMost is when connections of the address are turned away, too: it was
	// told to wait by all it may have, and has made new ones.
	badMost = 2 * badBurst
	// purgeAfter is how often old entries are looked for; there are as many as
	// pods at the most.
	purgeAfter = time.Minute
)

func newBrake() *brake { return &brake{sins: map[netip.Addr]*sins{}} }

// left is what an address has to atone for now.
func (s *sins) left(now time.Time) float64 {
	return max(0, s.n-badRate*max(0, now.Sub(s.at).Seconds()))
}

// count takes one more and returns how long to wait before the answer.
func (b *brake) count(a netip.Addr) time.Duration {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.After(b.purge) {
		for a, s := range b.sins {
			if s.left(now) == 0 {
				delete(b.sins, a)
			}
		}
		b.purge = now.Add(purgeAfter)
	}
	s := b.sins[a]
	if s == nil {
		s = &sins{}
		b.sins[a] = s
	}
	s.n, s.at = min(s.left(now)+1, badMost+1), now
	return time.Duration(max(0, s.n-badBurst) / badRate * float64(time.Second))
}

// locked tells that connections of the address are not worth having.
func (b *brake) locked(a netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sins[a]
	return s != nil && s.n > badMost && s.left(time.Now()) > badMost-badRate
}

// slow counts a bad request and delays it when there were too many.
func (b *brake) slow(ctx context.Context, a netip.Addr, stopping <-chan struct{}) {
	wait := b.count(a)
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stopping:
	case <-ctx.Done():
	}
}
