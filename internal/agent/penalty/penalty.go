// Package penalty slows down pods that send bad requests, so that a flood of them does not slow
// down other pods.
package penalty

import (
	"context"
	"sync"
	"time"
)

const (
	// Rate is how many bad requests a second a source may send without a delay. They cost a few
	// hundredths of a core.
	Rate = 400
	// Burst is how many it may send at once. A client's probe is one bad request, and a pod starts
	// some dozens of clients at most.
	Burst = 2000
	// blockAt is the score at which new connections of a source are closed. A source reaches it
	// by opening new connections while the responses on its others are delayed.
	blockAt = 2 * Burst
	// namespaceShare is how many times Rate and Burst the pods of one namespace have together.
	namespaceShare = 5
	// purgeInterval is how often expired scores are deleted. There are no more scores than pods.
	purgeInterval = time.Minute
)

// Penalties counts the bad requests of each source, such as an address, and of each namespace:
// requests that were refused, and connections closed without a request. Above Rate, responses to
// bad requests are delayed, and with them the next requests on the same connections. Well above it,
// Blocked reports true. Requests answered with a token are never delayed. It is safe for concurrent
// use.
type Penalties[S comparable] struct {
	mu         sync.Mutex
	sources    scores[S]
	namespaces scores[string]
}

// New returns a Penalties without scores.
func New[S comparable]() *Penalties[S] {
	return &Penalties[S]{
		sources:    scores[S]{rate: Rate, burst: Burst, byKey: map[S]score{}},
		namespaces: scores[string]{rate: namespaceShare * Rate, burst: namespaceShare * Burst, byKey: map[string]score{}},
	}
}

// Add counts a bad request and returns how long to delay the response. The namespace is "" for a
// connection without a request, and for a pod that is not known.
func (p *Penalties[S]) Add(source S, namespace string) time.Duration {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	delay := p.sources.add(source, now)
	if namespace != "" {
		delay = max(delay, p.namespaces.add(namespace, now))
	}
	return delay
}

// Blocked reports whether new connections of the source are to be closed.
func (p *Penalties[S]) Blocked(source S) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, found := p.sources.byKey[source]
	return found && s.n > blockAt && p.sources.current(source, time.Now()) > blockAt-Rate
}

// Delay counts a bad request and waits for as long as Add returns, or until ctx or stopping is
// done.
func (p *Penalties[S]) Delay(ctx context.Context, source S, namespace string, stopping <-chan struct{}) {
	delay := p.Add(source, namespace)
	if delay <= 0 {
		return
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stopping:
	case <-ctx.Done():
	}
}

// scores are counters that decay by rate a second. A score up to burst causes no delay.
type scores[K comparable] struct {
	rate, burst float64
	byKey       map[K]score
	nextPurge   time.Time
}

// score is a counter's value n at a time.
type score struct {
	n  float64
	at time.Time
}

// current returns the decayed score of k.
func (s *scores[K]) current(k K, now time.Time) float64 {
	x, found := s.byKey[k]
	if !found {
		return 0
	}
	return max(0, x.n-s.rate*max(0, now.Sub(x.at).Seconds()))
}

// add increments the score of k and returns the delay.
func (s *scores[K]) add(k K, now time.Time) time.Duration {
	if now.After(s.nextPurge) {
		for other := range s.byKey {
			if s.current(other, now) == 0 {
				delete(s.byKey, other)
			}
		}
		s.nextPurge = now.Add(purgeInterval)
	}
	n := min(s.current(k, now)+1, 2*s.burst+1)
	s.byKey[k] = score{n, now}
	return time.Duration(max(0, n-s.burst) / s.rate * float64(time.Second))
}
