// Rate limits: token buckets on the world's clock. arm/throttle.go answers 429 when they are empty.

package world

import (
	"math"
	"time"
)

// buckets holds the state of every bucket in use.
type buckets struct {
	levels map[string]*level
	atOnce map[string]int
}

type level struct {
	tokens float64
	at     time.Time
}

// maxBuckets bounds the number of buckets; all of them are reset when it is exceeded.
const maxBuckets = 10000

// Take draws one token from the bucket called key. It returns what is left and, if the bucket was
// empty, how long until it has one (rounded up to seconds, at least 1 s).
func (w *World) Take(key string, limit Bucket) (left int, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.doc.Settings.Limits.Enabled || limit.Size <= 0 {
		return math.MaxInt32, 0
	}
	if w.buckets.levels == nil {
		w.buckets.levels = map[string]*level{}
	}
	now, perSecond := w.now(), float64(limit.PerMinute)/60
	l := w.buckets.levels[key]
	if l == nil {
		if len(w.buckets.levels) >= maxBuckets {
			clear(w.buckets.levels)
		}
		l = &level{tokens: float64(limit.Size), at: now}
		w.buckets.levels[key] = l
	}
	if passed := now.Sub(l.at).Seconds(); passed > 0 {
		l.tokens = math.Min(float64(limit.Size), l.tokens+passed*perSecond)
		l.at = now
	}
	if l.tokens < 1 {
		seconds := math.Max(1, math.Ceil((1-l.tokens)/perSecond))
		return 0, time.Duration(seconds) * time.Second
	}
	l.tokens--
	return int(l.tokens), 0
}

// Enter counts a request of key as in progress, unless most are in progress already (0: no limit).
// The caller must call leave when it is over.
func (w *World) Enter(key string, most int) (leave func(), ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buckets.atOnce == nil {
		w.buckets.atOnce = map[string]int{}
	}
	inside := w.buckets.atOnce
	if w.doc.Settings.Limits.Enabled && most > 0 && inside[key] >= most {
		return nil, false
	}
	inside[key]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if inside[key]--; inside[key] <= 0 {
			delete(inside, key)
		}
	}, true
}
