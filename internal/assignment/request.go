// The pure part of finding the identity that makes Azure refuse a request: which request to try
// next.

package assignment

import (
	"slices"

	"github.com/podid-io/podid/internal/ascii"
)

// Request is one update of a node group: resource IDs to attach and to detach.
type Request struct{ Attach, Detach []string }

// Size returns how many identities the request names.
func (r Request) Size() int { return len(r.Attach) + len(r.Detach) }

// Narrow returns how to continue after Azure refused a request: the identities that caused it, and
// the smaller requests to make instead, in order. named are the resource IDs that Azure's error
// gave as the cause.
//
// If Azure names none, the request is bisected. A refused request with a single identity has found
// the cause. Identities to attach and to detach are separated first, so that a failing detach
// delays no pod. A request for n identities of which k are bad takes about 2k·log2(n) requests at
// most.
func Narrow(req Request, named []string) (rest []Request, culprits []string) {
	innocent := Request{}
	innocent.Attach, culprits = without(req.Attach, named, culprits)
	innocent.Detach, culprits = without(req.Detach, named, culprits)
	switch {
	case len(culprits) > 0 && innocent.Size() > 0:
		return []Request{innocent}, culprits
	case len(culprits) > 0:
		return nil, culprits
	case len(req.Attach) > 0 && len(req.Detach) > 0:
		return []Request{{Attach: req.Attach}, {Detach: req.Detach}}, nil
	case req.Size() <= 1:
		return nil, append(slices.Clone(req.Attach), req.Detach...)
	}
	a, d := len(req.Attach)/2, len(req.Detach)/2
	return []Request{
		{Attach: req.Attach[:a], Detach: req.Detach[:d]},
		{Attach: req.Attach[a:], Detach: req.Detach[d:]},
	}, nil
}

// without returns the ids that are not named, and culprits with the named ones appended.
func without(ids, named, culprits []string) (kept, all []string) {
	for _, id := range ids {
		if slices.ContainsFunc(named, func(n string) bool { return ascii.EqualFold(n, id) }) {
			culprits = append(culprits, id)
			continue
		}
		kept = append(kept, id)
	}
	return kept, culprits
}

// Names reports whether the request contains any of these identities.
func (r Request) Names(ids []string) bool {
	_, named := without(slices.Concat(r.Attach, r.Detach), ids, nil)
	return len(named) > 0
}
