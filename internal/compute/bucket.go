package compute

// One token bucket. It has no clock: every method is told what time it is.

import (
	"math"
	"time"
)

// bucket counts how many calls may go now, and how soon the next may.
type bucket struct {
	size      float64
	perSecond float64
	// tokens are those at the moment at. Fewer than none: promised to calls that wait for them.
	tokens float64
	// at may lie ahead: nothing goes before.
	at    time.Time
	stops int
}

// limit is what a bucket is made of.
type limit struct {
	size      float64
	perSecond float64
}

// bucket makes a full one.
func (l limit) bucket(now time.Time) bucket {
	return bucket{size: l.size, perSecond: l.perSecond, tokens: l.size, at: now}
}

// enough is one token, less what floating point loses.
const enough = 1 - 1e-6

// settle adds what has grown until now.
func (b *bucket) settle(now time.Time) {
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens = math.Min(b.size, b.tokens+passed.Seconds()*b.perSecond)
		b.at = now
	}
}

// wait is how long until a call may go; 0: now.
func (b *bucket) wait(now time.Time) time.Duration {
	b.settle(now)
	wait := b.at.Sub(now)
	if b.tokens < enough {
		wait += time.Duration(math.Ceil((1 - b.tokens) / b.perSecond * float64(time.Second)))
	}
	return wait
}

// take reserves a call. It may go after wait, as it was before.
func (b *bucket) take(now time.Time) {
	b.settle(now)
	b.tokens--
}

// spend counts a call that is on its way already, and makes nobody wait for it who was promised a token.
func (b *bucket) spend(now time.Time) {
	b.settle(now)
	b.tokens = math.Max(b.tokens-1, math.Min(b.tokens, 0))
}

// lower takes Azure's word for what is left, if that is less than we thought.
func (b *bucket) lower(now time.Time, left float64) {
	b.settle(now)
	b.tokens = math.Min(b.tokens, left)
}

// follow takes Azure's word for what is left, whatever we thought.
func (b *bucket) follow(now time.Time, left float64) {
	b.settle(now)
	b.tokens = math.Min(b.size, left)
}

// stop lets nothing go for that long; then one call, and more as they grow. Promises made before are void: who waits
// for one sees that by stops, and takes another.
func (b *bucket) stop(now time.Time, d time.Duration) {
	b.settle(now)
	b.tokens = 1
	b.stops++
	if until := now.Add(d); until.After(b.at) {
		b.at = until
	}
}

// stopped is how long a stop lasts yet.
func (b *bucket) stopped(now time.Time) time.Duration { return max(b.at.Sub(now), 0) }

// full reports that the bucket is as a new one.
func (b *bucket) full(now time.Time) bool {
	b.settle(now)
	return b.tokens >= b.size && !b.at.After(now)
}
