// Checks of MIC's requests to Azure, one by one.
package faults_test

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// call is one request to ARM from the emulator's log.
type call struct {
	at, answered time.Time
	// group is the node group of the request in lower case; empty for other requests, such as polls
	// of an operation.
	group  string
	write  bool
	status int
	// named is the number of identities in a write.
	named int
	// retryAfter is the wait that the response demanded, or 0. wide means that it was for the whole
	// subscription.
	retryAfter time.Duration
	wide       bool
	// lost means that a fault dropped or changed the response: the caller cannot know the outcome.
	lost bool
	// started, if any: the operation that this write became. ends is when it is over.
	operation      string
	ends           time.Time
	added, removed []string
}

// span is a time in which MIC may lose its memory: it is killed, or it cannot reach the API server
// and loses its lease.
type span struct{ from, to time.Time }

// calls holds all requests of a run in the order of arrival, and what excuses some.
type calls struct {
	list []call
	// losses of memory. MIC need not remember after one what it learned before.
	losses []span
	// away lists the times in which MIC could not record what it was about to do. Reading Azure is
	// pointless then.
	away []span
	// isForeign reports whether others assigned the identity.
	isForeign func(group, id string) bool
	// steady reports whether pods have needed the identity without a break from the last rest to
	// the end.
	steady func(group, id string) bool
	// perSecond is the number of requests that MIC may make in any second.
	perSecond int
}

// since returns the calls after a time.
func (c calls) since(t time.Time) calls {
	c.list = slices.DeleteFunc(slices.Clone(c.list), func(r call) bool { return r.at.Before(t) })
	return c
}

// maxNamed is Azure's limit of identities per request.
const maxNamed = 150

// wrong returns everything that MIC should not have done.
func (c calls) wrong() []string {
	return slices.Concat(c.wrongRemovals(), c.wrongSizes(), c.overlaps(), c.earlyWrites(), c.storms(), c.inVain())
}

func (c calls) wrongRemovals() (wrong []string) {
	for _, w := range c.list {
		for _, id := range w.removed {
			if c.isForeign(w.group, id) {
				wrong = append(wrong, fmt.Sprintf("%s: took away %s from %s, which others had assigned", clock(w.at), short(id), short(w.group)))
			}
			if c.steady != nil && c.steady(w.group, id) {
				wrong = append(wrong, fmt.Sprintf("%s: took away %s from %s, which pods needed all the time", clock(w.at), short(id), short(w.group)))
			}
		}
	}
	return wrong
}

func (c calls) wrongSizes() (wrong []string) {
	for _, w := range c.list {
		if w.named > maxNamed {
			wrong = append(wrong, fmt.Sprintf("%s: named %d identities in one request to %s, at most %d are allowed", clock(w.at), w.named, short(w.group), maxNamed))
		}
	}
	return wrong
}

// overlaps returns writes to a group that had an update in progress that MIC knew of.
func (c calls) overlaps() (wrong []string) {
	for i, first := range c.list {
		if !first.write || first.operation == "" || first.lost || c.pollLost(first) {
			continue
		}
		for _, second := range c.list[i+1:] {
			if second.write && second.group == first.group && second.at.Before(first.ends) && !c.forgot(first.at, second.at) {
				wrong = append(wrong, fmt.Sprintf("%s: wrote to %s (answer %d) while its own operation of %s was under way until %s",
					clock(second.at), short(second.group), second.status, clock(first.at), clock(first.ends)))
			}
		}
	}
	return wrong
}

// pollLost reports whether a fault misled MIC about the operation.
func (c calls) pollLost(w call) bool {
	return slices.ContainsFunc(c.list, func(p call) bool {
		return p.lost && p.group == "" && p.operation == w.operation && p.status == http.StatusOK
	})
}

// earlyWrites returns writes before the end of a Retry-After.
func (c calls) earlyWrites() (wrong []string) {
	for i, throttled := range c.list {
		if throttled.retryAfter == 0 || throttled.group == "" {
			continue
		}
		until := throttled.at.Add(throttled.retryAfter) // not from answered, which a busy machine may record long after MIC has read it
		for _, w := range c.list[i+1:] {
			same := w.group == throttled.group || throttled.wide && subscription(w.group) == subscription(throttled.group)
			if w.write && same && w.at.After(throttled.answered) && w.at.Before(until) && !c.forgot(throttled.answered, w.at) {
				wrong = append(wrong, fmt.Sprintf("%s: wrote to %s, which at %s had said (%d) not to before %s",
					clock(w.at), short(w.group), clock(throttled.answered), throttled.status, clock(until)))
			}
		}
	}
	return wrong
}

// storms returns seconds with more requests than MIC may make, each second once.
func (c calls) storms() (wrong []string) {
	most, at := c.busiest()
	if most > c.perSecond {
		wrong = append(wrong, fmt.Sprintf("%s: %d requests in a second, at most %d are expected", clock(at), most, c.perSecond))
	}
	return wrong
}

// mostInVain is how often MIC may read a group while the API server is away: for updates that end
// then, and some retries.
const mostInVain = 8

// inVain returns groups that were read continually while the API server was away.
func (c calls) inVain() (wrong []string) {
	for _, s := range c.away {
		reads := map[string]int{}
		for _, r := range c.list {
			if !r.write && r.group != "" && r.at.After(s.from) && r.at.Before(s.to) {
				reads[r.group]++
			}
		}
		for _, group := range slices.Sorted(maps.Keys(reads)) {
			if n := reads[group]; n > mostInVain {
				wrong = append(wrong, fmt.Sprintf("%s: read %s %d times while the API server was away until %s, at most %d are fine",
					clock(s.from), short(group), n, clock(s.to), mostInVain))
			}
		}
	}
	return wrong
}

// busiest returns the second with the most requests.
func (c calls) busiest() (most int, at time.Time) {
	list := slices.SortedFunc(slices.Values(c.list), func(a, b call) int { return a.at.Compare(b.at) })
	for from, to := 0, 0; to < len(list); to++ {
		for list[to].at.Sub(list[from].at) >= time.Second {
			from++
		}
		if n := to - from + 1; n > most {
			most, at = n, list[from].at
		}
	}
	return most, at
}

// forgot reports whether MIC may have lost its memory between two times.
func (c calls) forgot(from, to time.Time) bool {
	return slices.ContainsFunc(c.losses, func(s span) bool { return !s.to.Before(from) && !s.from.After(to) })
}

// summary describes a run in one line.
func (c calls) summary() string {
	writes, throttled, failed, most := 0, 0, 0, 0
	for _, r := range c.list {
		if r.write {
			writes++
		}
		if r.retryAfter > 0 {
			throttled++
		}
		if r.status >= http.StatusBadRequest {
			failed++
		}
		most = max(most, r.named)
	}
	busiest, _ := c.busiest()
	return fmt.Sprintf("%d requests to ARM, %d of them writes, %d failed, %d with Retry-After; at most %d in a second, %d identities in one",
		len(c.list), writes, failed, throttled, busiest, most)
}

// String formats the call for a log.
func (c call) String() string {
	verb, about := "read", short(c.group)
	if c.write {
		verb = "write"
	}
	if c.group == "" {
		verb, about = "poll", c.operation
	}
	line := fmt.Sprintf("%s %s %s: %d in %s", clock(c.at), verb, about, c.status, c.answered.Sub(c.at))
	for _, id := range c.added {
		line += " +" + short(id)
	}
	for _, id := range c.removed {
		line += " -" + short(id)
	}
	if !c.ends.IsZero() {
		line += " until " + clock(c.ends) + " as " + c.operation
	}
	if c.retryAfter > 0 {
		line += " retry after " + c.retryAfter.String()
	}
	if c.lost {
		line += " disturbed"
	}
	return line
}

func byTime(a, b call) int { return cmp.Or(a.at.Compare(b.at), a.answered.Compare(b.answered)) }

func subscription(group string) string {
	_, rest, _ := strings.Cut(group, "/subscriptions/")
	id, _, _ := strings.Cut(rest, "/")
	return id
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }
