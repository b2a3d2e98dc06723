package compute

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestBucketNeverExceeds: whatever happens, no stretch of time sees more calls go than the bucket holds and grows, and
// none goes while it is stopped.
func TestBucketNeverExceeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		of := limit{size: float64(rapid.IntRange(1, 20).Draw(t, "size")), perSecond: rapid.Float64Range(0.05, 30).Draw(t, "perSecond")}
		now := time.Unix(0, 0)
		b := of.bucket(now)
		var went, stops []time.Time
		quiet := now // nothing that was promised after the last stop goes before
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "ms")) * time.Millisecond)
			},
			"take": func(t *rapid.T) {
				wait := b.wait(now)
				if again := b.wait(now); again != wait {
					t.Fatalf("asked twice: %v, then %v", wait, again)
				}
				b.take(now)
				if at := now.Add(wait); at.Before(quiet) {
					t.Fatalf("goes at %v, stopped until %v", at, quiet)
				}
				went = append(went, now.Add(wait))
			},
			"stop": func(t *rapid.T) {
				d := time.Duration(rapid.IntRange(0, 60).Draw(t, "stop")) * time.Second
				b.stop(now, d)
				stops = append(stops, now)
				// Promises of before are void: kept tells their holders.
				for len(went) > 0 && went[len(went)-1].After(now) {
					went = went[:len(went)-1]
				}
				if until := now.Add(d); until.After(quiet) {
					quiet = until
				}
			},
			"lower": func(t *rapid.T) { b.lower(now, float64(rapid.IntRange(0, 300).Draw(t, "left"))) },
			"": func(t *rapid.T) {
				for i := range went {
					stretch := went[len(went)-1].Sub(went[i]).Seconds()
					after := slices.DeleteFunc(slices.Clone(stops), func(at time.Time) bool { return at.Before(went[i]) })
					// One more for each edge, what floating point rounds, and the call that each stop ends with.
					if n := float64(len(went) - i); n > of.size+stretch*of.perSecond+2+float64(len(after)) {
						t.Fatalf("%v calls within %v s, of %+v", n, stretch, of)
					}
				}
			},
		})
	})
}

func TestBucket(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	b := limit{size: 2, perSecond: 0.5}.bucket(start)
	for i, step := range []struct {
		do   func()
		at   float64
		want time.Duration
	}{
		{func() {}, 0, 0},
		{func() { b.take(at(0)); b.take(at(0)) }, 0, 2 * time.Second},
		{func() { b.take(at(0)) }, 0, 4 * time.Second}, // one is promised
		{func() {}, 3, time.Second},
		{func() {}, 60, 0},
		{func() { b.lower(at(60), 100) }, 60, 0},
		{func() { b.lower(at(60), 0) }, 60, 2 * time.Second},
		{func() { b.follow(at(60), 100) }, 60, 0},
		{func() { b.stop(at(60), 30*time.Second) }, 60, 30 * time.Second},
		{func() { b.stop(at(60), 10*time.Second) }, 61, 29 * time.Second}, // the longer one counts
		{func() {}, 90, 0},
		{func() { b.take(at(90)) }, 90, 2 * time.Second}, // one call, not a burst
		{func() { b.spend(at(100)); b.spend(at(100)); b.spend(at(100)) }, 100, 2 * time.Second},
	} {
		step.do()
		if wait := b.wait(at(step.at)); wait != step.want {
			t.Errorf("step %d: wait %v, want %v", i, wait, step.want)
		}
	}
}
