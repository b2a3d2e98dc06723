// What the sources refused of late.

package token

import (
	"errors"
	"net/http"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
)

// failures remembers for some seconds why there is no token, so that hundreds of
// pods that ask for the same in vain cost the source a few calls.
//
// The source's own trouble is remembered for a moment, and no longer than until
// it gives a token for anything; a final refusal (a resource that does not
// exist, a secret that is wrong) for some seconds, growing while it is repeated.
// Failures are kept under the key of the token, so a corrected identity has
// none. What says nothing of the source, such as a full queue, is not kept.
//
// Not safe for concurrent use.
type failures struct {
	max, maxPerID int
	notes         map[key]*failed
	perID         map[key]int
	perSpace      map[string]int // by namespace
	// answered is when the source of a type last gave a token.
	answered map[v1.IdentityType]time.Time
}

type failed struct {
	failure   *Failure
	at, until time.Time
	times     int // in a row
}

const (
	// Trouble is remembered for 1, 2 and then 4 s: a flight has tried for
	// seconds before it says so.
	firstTrouble, maxTrouble = time.Second, 4 * time.Second
	// Refusals are remembered for 2, 4 … 30 s. The cause may be out of our sight
	// (a Secret, the application on Azure), and whoever corrects it should see
	// the effect.
	firstRefusal, maxRefusal = 2 * time.Second, 30 * time.Second
	// forgetAfter is when a failure that comes again is counted as the first.
	forgetAfter = time.Minute
)

func newFailures(most, mostPerID int) *failures {
	return &failures{
		max: most, maxPerID: mostPerID, notes: map[key]*failed{}, perID: map[key]int{}, perSpace: map[string]int{},
		answered: map[v1.IdentityType]time.Time{},
	}
}

// failureOf is the *Failure in an error, nil when there is none.
func failureOf(err error) *Failure {
	f, _ := errors.AsType[*Failure](err)
	return f
}

// passing tells that a failure is trouble of the source that may end by itself,
// not its decision.
func (f *Failure) passing() bool {
	switch f.Status {
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusGone, http.StatusTooManyRequests:
		return true
	default:
		return f.Status >= http.StatusInternalServerError
	}
}

// span is how long to remember the failure that came so many times in a row.
func (f *Failure) span(times int) time.Duration {
	double := min(times-1, 10)
	if !f.passing() {
		return min(firstRefusal<<double, maxRefusal)
	}
	return max(min(firstTrouble<<double, maxTrouble), min(f.RetryAfter, maxAway))
}

// note remembers why a flight failed.
func (m *failures) note(k key, err error, now time.Time) {
	f := failureOf(err)
	if f == nil || f.queued {
		return
	}
	n := m.notes[k]
	if n == nil {
		n = m.add(k, now)
	} else if now.Sub(n.until) > forgetAfter || n.failure.passing() != f.passing() {
		n.times = 0
	}
	n.times++
	n.failure, n.at, n.until = f, now, now.Add(f.span(n.times))
}

// recall returns the failure that answers a request for now, nil when the source
// should be asked. Its RetryAfter counts down.
func (m *failures) recall(k key, now time.Time) error {
	n := m.notes[k]
	if n == nil || !now.Before(n.until) || n.failure.passing() && !m.answered[k.kind].Before(n.at) {
		return nil
	}
	f := *n.failure
	if f.RetryAfter > 0 {
		f.RetryAfter = max(f.RetryAfter-now.Sub(n.at), time.Second)
	}
	return &f
}

// success notes that the source gave a token.
func (m *failures) success(k key, now time.Time) {
	m.answered[k.kind] = now
	m.remove(k)
}

// add makes the note of k, and room for it.
func (m *failures) add(k key, now time.Time) *failed {
	id := k.identity()
	if m.perID[id] >= m.maxPerID {
		m.evict(now, func(other key) bool { return other.identity() == id })
	}
	if len(m.notes) >= m.max {
		most := k.namespace
		for other, n := range m.perSpace {
			if n > m.perSpace[most] {
				most = other
			}
		}
		m.evict(now, func(other key) bool { return other.namespace == most })
	}
	n := &failed{}
	m.notes[k] = n
	m.perID[id]++
	m.perSpace[k.namespace]++
	return n
}

// evict removes the notes of those that qualify that are over, or else the one
// that will be first.
func (m *failures) evict(now time.Time, qualifies func(key) bool) {
	var first key
	var soonest time.Time
	for k, n := range m.notes {
		switch {
		case !qualifies(k):
		case now.After(n.until):
			m.remove(k)
		case soonest.IsZero() || n.until.Before(soonest):
			first, soonest = k, n.until
		}
	}
	if m.perID[first.identity()] >= m.maxPerID || len(m.notes) >= m.max {
		m.remove(first)
	}
}

func (m *failures) remove(k key) {
	if m.notes[k] == nil {
		return
	}
	delete(m.notes, k)
	id := k.identity()
	if m.perID[id]--; m.perID[id] <= 0 {
		delete(m.perID, id)
	}
	if m.perSpace[k.namespace]--; m.perSpace[k.namespace] <= 0 {
		delete(m.perSpace, k.namespace)
	}
}
