// The requests of one update, and what is left of an earlier one.

package attachment

import (
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/ledger"
)

// parts are the requests of a plan: first what Azure has not refused before, then
// what is left of a halving, each part for itself, because most likely a bad one
// is among them; last those on probation.
func (st *state) parts(plan assignment.GroupPlan) []part {
	st.mu.Lock()
	left := st.halves
	st.halves = nil
	st.mu.Unlock()
	attach, detach, probation := plan.Attach, plan.Detach, plan.Probation
	var halves []part
	for _, req := range left {
		half := part{half: true}
		half.Attach, attach = split(attach, req.Attach)
		half.Detach, detach = split(detach, req.Detach)
		var tried []string
		tried, probation = split(probation, req.Attach)
		if half.Attach = append(half.Attach, tried...); half.Size() > 0 {
			halves = append(halves, half)
		}
	}
	var parts []part
	if len(attach)+len(detach) > 0 {
		parts = append(parts, part{Request: assignment.Request{Attach: attach, Detach: detach}})
	}
	parts = append(parts, halves...)
	if len(probation) > 0 {
		parts = append(parts, part{Request: assignment.Request{Attach: probation}})
	}
	return parts
}

// split returns those ids that are among these, and the others.
func split(ids, these []string) (in, out []string) {
	keys := map[string]bool{}
	for _, id := range these {
		keys[ledger.Key(id)] = true
	}
	for _, id := range ids {
		if keys[ledger.Key(id)] {
			in = append(in, id)
		} else {
			out = append(out, id)
		}
	}
	return in, out
}

// halves are what a refused request is cut into.
func halves(requests []assignment.Request) []part {
	parts := make([]part, 0, len(requests))
	for _, req := range requests {
		parts = append(parts, part{req, true})
	}
	return parts
}

// keep remembers the halves that Azure has not been asked about, for the next
// update.
func (st *state) keep(parts []part) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, p := range parts {
		if p.half {
			st.halves = append(st.halves, p.Request)
		}
	}
}

// askedMeanwhile tells whether anything is needed that no update has taken up yet.
func (st *state) askedMeanwhile() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return !st.firstAsked.IsZero()
}
