// Counting durations.

package load

import (
	"math/bits"
	"time"
)

// perOctave is the number of steps from a duration to its double: a step is 1.6 % of the duration.
const perOctave = 64

// histogram counts durations in proportional steps and constant memory.
type histogram struct {
	counts [perOctave * 40]int
	n      int
	max    time.Duration
}

// add records a duration and reports whether it is the longest so far.
func (h *histogram) add(d time.Duration) bool {
	h.n++
	h.counts[min(step(d), len(h.counts)-1)]++
	if d <= h.max {
		return false
	}
	h.max = d
	return true
}

// step returns the step of a duration: its highest bit and the six bits below it.
func step(d time.Duration) int {
	ns := uint64(max(d, 0))
	octave := max(bits.Len64(ns)-7, 0)
	return octave*perOctave + int(ns>>octave) //nolint:gosec // small
}

// longest returns the longest duration of a step.
func longest(step int) time.Duration {
	if step < 2*perOctave {
		return time.Duration(step)
	}
	octave := step/perOctave - 1
	return time.Duration((step-octave*perOctave+1)<<octave - 1)
}

// quantile returns the duration, in seconds, that this share of all did not exceed.
func (h *histogram) quantile(part float64) float64 {
	left := int(part*float64(h.n) + 0.999999)
	for i, n := range h.counts {
		if left -= n; left <= 0 && n > 0 {
			return min(longest(i), h.max).Seconds()
		}
	}
	return 0
}
