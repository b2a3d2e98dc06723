// What keeps a flood of bad requests of one pod, or of one namespace, from costing the others.

package server

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// brake counts what came to nothing, for each address and for each namespace: requests that were
// refused, and connections without a request. Beyond a rate that no honest
// client comes near, answers to such requests are delayed, and so the pod's next
// ones on the same connections; and new connections of the address are turned away. Requests
// that are answered with a token are never slowed down.
//
// The namespace of an address is known once its pod is, so connections count for the address only.
type brake struct {
	mu         sync.Mutex
	addresses  scores[netip.Addr]
	namespaces scores[string]
}

// scores are decaying counts: each is less by rate a second, and burst costs nothing.
type scores[K comparable] struct {
	rate, burst float64
	of          map[K]*score
	purge       time.Time // when to look for entries that can go
}

// score is n at the time, less the rate since.
type score struct {
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
	// namespaceShare is how many pods' bad requests cost nothing when they are of one namespace.
	namespaceShare = 5
	// purgeAfter is how often old entries are looked for; there are as many as
	// pods at the most.
	purgeAfter = time.Minute
)

func newBrake() *brake {
	return &brake{
		addresses:  scores[netip.Addr]{rate: badRate, burst: badBurst, of: map[netip.Addr]*score{}},
		namespaces: scores[string]{rate: namespaceShare * badRate, burst: namespaceShare * badBurst, of: map[string]*score{}},
	}
}

// left is a score as it is now.
func (s *scores[K]) left(k K, now time.Time) float64 {
	x := s.of[k]
	if x == nil {
		return 0
	}
	return max(0, x.n-s.rate*max(0, now.Sub(x.at).Seconds()))
}

// add counts one more and returns how long to wait before the answer.
func (s *scores[K]) add(k K, now time.Time) time.Duration {
	if now.After(s.purge) {
		for other := range s.of {
			if s.left(other, now) == 0 {
				delete(s.of, other)
			}
		}
		s.purge = now.Add(purgeAfter)
	}
	x := score{min(s.left(k, now)+1, 2*s.burst+1), now}
	s.of[k] = &x
	return time.Duration(max(0, x.n-s.burst) / s.rate * float64(time.Second))
}

// count adds a request, or a connection without one, and returns how long to wait before the answer.
// The namespace is "" while it is not known.
func (b *brake) count(a netip.Addr, namespace string) time.Duration {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := b.addresses.add(a, now)
	if namespace != "" {
		wait = max(wait, b.namespaces.add(namespace, now))
	}
	return wait
}

// locked reports whether new connections of the address are closed at once.
func (b *brake) locked(a netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.addresses.of[a]
	return x != nil && x.n > badMost && b.addresses.left(a, time.Now()) > badMost-badRate
}

// slow counts a bad request and delays it when there were too many.
func (b *brake) slow(ctx context.Context, a netip.Addr, namespace string, stopping <-chan struct{}) {
	wait := b.count(a, namespace)
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
