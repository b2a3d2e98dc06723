// Requests that failed a moment ago, so that the next caller gets the same error at once.

package token

import (
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/reason"
)

// failures remembers failed requests for a few seconds, so that hundreds of pods that ask in vain
// cost the source only a few calls.
//
// A transient failure is remembered for a moment, and no longer than until the source returns a
// token for another request. A final one (a resource that does not exist, a wrong secret) is
// remembered for some seconds, more each time it is repeated. Failures are kept under the key of
// the token, so a corrected identity has none. ErrBusy and Queued failures say nothing about the
// source and are not kept.
//
// It is not safe for concurrent use.
type failures struct {
	max, maxPerID int
	records       map[key]*record
	perID         map[key]int
	perSpace      map[string]int // by namespace
	// answered is when the source of a type last returned a token.
	answered map[v1.IdentityType]time.Time
}

type record struct {
	failure   *reason.Refusal
	at, until time.Time
	times     int // in a row
}

const (
	// A transient failure is remembered for 1, 2 and then 4 s. The source has tried for seconds
	// before.
	minTransient, maxTransient = time.Second, 4 * time.Second
	// A final failure is remembered for 2, 4 … 30 s. The agent may not see its cause being fixed (a
	// Secret, the application in Azure), and the fix should have an effect soon.
	minFinal, maxFinal = 2 * time.Second, 30 * time.Second
	// forgetAfter is when a failure that comes again counts as the first.
	forgetAfter = time.Minute
)

func newFailures(most, mostPerID int) *failures {
	return &failures{
		max: most, maxPerID: mostPerID, records: map[key]*record{}, perID: map[key]int{}, perSpace: map[string]int{},
		answered: map[v1.IdentityType]time.Time{},
	}
}

// span returns how long to remember a failure that came so many times in a row.
func span(f *reason.Refusal, times int) time.Duration {
	double := min(times-1, 10)
	if !f.Transient() {
		return min(minFinal<<double, maxFinal)
	}
	return max(min(minTransient<<double, maxTransient), min(f.RetryAfter, MaxRetryAfter))
}

// record remembers why a fetch failed.
func (m *failures) record(k key, err error, now time.Time) {
	f := reason.AsRefusal(err)
	if f == nil || f.Reason == reason.IMDSBusy || f.Reason == reason.EntraBusy { // it never reached the source
		return
	}
	n := m.records[k]
	if n == nil {
		n = m.add(k, now)
	} else if now.Sub(n.until) > forgetAfter || n.failure.Transient() != f.Transient() {
		n.times = 0
	}
	n.times++
	n.failure, n.at, n.until = f, now, now.Add(span(f, n.times))
}

// recall returns the failure that answers a request for now, or nil if the source should be asked.
// Its RetryAfter counts down.
func (m *failures) recall(k key, now time.Time) error {
	n := m.records[k]
	if n == nil || !now.Before(n.until) || n.failure.Transient() && !m.answered[k.kind].Before(n.at) {
		return nil
	}
	f := *n.failure
	if f.RetryAfter > 0 {
		f.RetryAfter = max(f.RetryAfter-now.Sub(n.at), time.Second)
	}
	return &f
}

// success records that the source returned a token.
func (m *failures) success(k key, now time.Time) {
	m.answered[k.kind] = now
	m.remove(k)
}

// add makes the record of k, and room for it.
func (m *failures) add(k key, now time.Time) *record {
	id := k.identity()
	if m.perID[id] >= m.maxPerID {
		m.evict(now, func(other key) bool { return other.identity() == id })
	}
	if len(m.records) >= m.max {
		most := largest(m.perSpace, k.namespace)
		m.evict(now, func(other key) bool { return other.namespace == most })
	}
	n := &record{}
	m.records[k] = n
	m.perID[id]++
	m.perSpace[k.namespace]++
	return n
}

// evict removes the records that qualify and have ended, or else the one that ends first.
func (m *failures) evict(now time.Time, qualifies func(key) bool) {
	var first key
	var soonest time.Time
	for k, n := range m.records {
		switch {
		case !qualifies(k):
		case now.After(n.until):
			m.remove(k)
		case soonest.IsZero() || n.until.Before(soonest):
			first, soonest = k, n.until
		}
	}
	if m.perID[first.identity()] >= m.maxPerID || len(m.records) >= m.max {
		m.remove(first)
	}
}

func (m *failures) remove(k key) {
	if m.records[k] == nil {
		return
	}
	delete(m.records, k)
	id := k.identity()
	if m.perID[id]--; m.perID[id] <= 0 {
		delete(m.perID, id)
	}
	if m.perSpace[k.namespace]--; m.perSpace[k.namespace] <= 0 {
		delete(m.perSpace, k.namespace)
	}
}
