// Checks of MIC's requests to Azure, one by one.
package faults_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// call is one request to ARM from the emulator's log.
type call struct {
	at   time.Time
	took time.Duration
	// group is the node group of the request in lower case; empty for other requests, such as polls
	// of an operation.
	group          string
	write          bool
	status         int
	added, removed []string
}

// outage is a time without an API server. One that has started serves its clients only later, on a
// slow machine by seconds.
type outage struct{ killed, started, ready time.Time }

// calls holds all requests of a run in the order of arrival, and what excuses some.
type calls struct {
	list []call
	// outages lists the times in which MIC could not record what it was about to do. Reading Azure
	// is pointless then.
	outages []outage
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

// wrong returns everything that MIC should not have done.
func (c calls) wrong() []string { return slices.Concat(c.wrongRemovals(), c.storms(), c.inVain()) }

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
	for _, o := range c.outages {
		reads := map[string]int{}
		for _, r := range c.list {
			if !r.write && r.group != "" && r.at.After(o.killed) && r.at.Before(o.started) {
				reads[r.group]++
			}
		}
		for _, group := range slices.Sorted(maps.Keys(reads)) {
			if n := reads[group]; n > mostInVain {
				wrong = append(wrong, fmt.Sprintf("%s: read %s %d times while the API server was away until %s, at most %d are fine",
					clock(o.killed), short(group), n, clock(o.started), mostInVain))
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

// summary describes a run in one line.
func (c calls) summary() string {
	writes, failed := 0, 0
	for _, r := range c.list {
		if r.write {
			writes++
		}
		if r.status >= http.StatusBadRequest {
			failed++
		}
	}
	busiest, _ := c.busiest()
	return fmt.Sprintf("%d requests to ARM, %d of them writes, %d failed; at most %d in a second", len(c.list), writes, failed, busiest)
}

// String formats the call for a log.
func (c call) String() string {
	verb := "read"
	switch {
	case c.group == "":
		verb = "poll"
	case c.write:
		verb = "write"
	}
	line := fmt.Sprintf("%s %s %s: %d in %s", clock(c.at), verb, short(c.group), c.status, c.took)
	for _, id := range c.added {
		line += " +" + short(id)
	}
	for _, id := range c.removed {
		line += " -" + short(id)
	}
	return line
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }
