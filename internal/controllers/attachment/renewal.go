// Noticing that the identity behind a resource ID is not the one that was
// attached: somebody deleted it and made it again under the same name. Azure
// keeps the old one on the machine, which gets no tokens any more, until it is
// removed and added.

package attachment

import (
	"context"
	"maps"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
)

// compare looks for identities that have to be attached anew, and notes in the
// ledger which ones are there. mu is held.
func (st *state) compare(have compute.Identities) {
	clear(st.stale)
	for key := range st.blockers {
		st.stale[key] = true // Azure has said so, however it lists them
	}
	if !have.Updating { // else what is arriving may not have its ids yet
		for _, id := range have.Orphaned {
			// Nothing is behind it, so taking it away takes nothing from
			// anybody, whoever put it there; and it is only done to put it
			// back.
			st.stale[keyOf(id)] = true
		}
	}
	maps.DeleteFunc(st.cleared, func(key string, _ suspect) bool { return !st.current.Has(key) })
	for _, id := range have.UserAssigned {
		key := keyOf(id)
		entry, ours := st.ledger[key]
		principal := lower(have.PrincipalIDs[id])
		if !have.Updating && !st.stale[key] && principal != "" {
			st.renewed(key) // it never left, or is back
			entry = st.ledger[key]
		}
		if !ours || entry.Keep || principal == "" {
			continue
		}
		if entry.PrincipalID != "" && entry.PrincipalID != principal {
			st.stale[key] = true
			continue
		}
		entry.PrincipalID = principal
		st.ledger[key] = entry
	}
}

// finishRenewals adds what was taken away only to be put back, and that nobody
// needs any more: it is somebody else's. mu is held.
func (st *state) finishRenewals(in assignment.Group) {
	for key, entry := range st.ledger {
		if entry.Renewing && !st.current.Has(key) && !in.Desired.Has(key) {
			in.Desired[key], in.Early[key] = entry.ResourceID, entry.ResourceID
		}
	}
}

// renewed ends a renewal: the identity is back, or Azure does not take it. mu is held.
func (st *state) renewed(key string) {
	if entry, ok := st.ledger[key]; ok && entry.Renewing {
		entry.Renewing = false
		st.ledger[key] = entry
	}
}

// suspect is an identity whose AzureIdentity names another client id than the
// node group has: either the AzureIdentity is wrong, or it was corrected after the
// identity was made again.
type suspect struct{ key, resourceID, said, has string }

// suspects returns those that nobody has looked into yet.
func (st *state) suspects() (found []suspect) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for key, n := range st.needs {
		said, has := lower(n.clientID), st.clients[key]
		if said == "" || has == "" || said == has || st.stale[key] || len(found) == mostSuspects {
			continue
		}
		if s := (suspect{key, n.spelling, said, has}); st.cleared[key] != s {
			found = append(found, s)
		}
	}
	return found
}

// mostSuspects bounds the requests of one pass.
const mostSuspects = 10

// investigate asks Azure about suspects: only Azure knows which client id the
// identity has now. Anybody may write an AzureIdentity, so its word alone takes
// nothing off a machine.
func (r *Reconciler) investigate(ctx context.Context, st *state) {
	log := logr.FromContextOrDiscard(ctx)
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for _, s := range st.suspects() {
		clientID, err := r.cloud.ClientID(ctx, s.resourceID)
		if err != nil {
			// One failure a comparison is enough: the group's pods wait for
			// this, and its turn comes again, in another order.
			log.V(1).Info("identity not looked up, will be after the next comparison with Azure", "resourceID", s.resourceID, "cause", err.Error())
			return
		}
		if st.judge(s, lower(clientID)) {
			log.Info("identity was deleted and made again, attaching it anew", "resourceID", s.resourceID)
		} else {
			log.Info("an AzureIdentity names another client ID than its resource ID has: correct spec.clientID", "resourceID", s.resourceID)
		}
	}
}

// judge notes what Azure said about a suspect, and tells whether it is stale.
func (st *state) judge(s suspect, clientID string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if clientID == s.has {
		st.cleared[s.key] = s
		return false
	}
	st.stale[s.key] = true
	return true
}
