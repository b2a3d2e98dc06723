// The requests of one update, and the remainders of an earlier one.

package attachment

import (
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/ledger"
)

// request is one request of an update.
type request struct {
	assignment.Request
	// remainder marks a part of a request that Azure refused.
	remainder bool
}

// requests returns the requests of a plan: first what Azure has not refused before, then each
// remainder separately, because most likely a bad identity is among them, and last the identities
// on probation.
func requests(plan assignment.GroupPlan, refused []assignment.Request) []request {
	attach, detach, probation := plan.Attach, plan.Detach, plan.Probation
	var parts []request
	for _, req := range refused {
		part := request{remainder: true}
		part.Attach, attach = split(attach, req.Attach)
		part.Detach, detach = split(detach, req.Detach)
		var retried []string
		retried, probation = split(probation, req.Attach)
		if part.Attach = append(part.Attach, retried...); part.Size() > 0 {
			parts = append(parts, part)
		}
	}
	var all []request
	if len(attach)+len(detach) > 0 {
		all = append(all, request{Request: assignment.Request{Attach: attach, Detach: detach}})
	}
	all = append(all, parts...)
	if len(probation) > 0 {
		all = append(all, request{Request: assignment.Request{Attach: probation}})
	}
	return all
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

// remainders returns the parts of a refused request as requests.
func remainders(parts []assignment.Request) []request {
	all := make([]request, 0, len(parts))
	for _, req := range parts {
		all = append(all, request{req, true})
	}
	return all
}
