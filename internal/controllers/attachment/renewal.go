// Noticing that the identity behind a resource ID is not the one that was
// attached: somebody deleted it and made it again under the same name. Azure
// keeps the old one on the machine, which gets no tokens any more, until it is
// removed and added.

package attachment

import (
	"context"
	"maps"
	"slices"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
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
			st.stale[ledger.Key(id)] = true
		}
	}
	maps.DeleteFunc(st.cleared, func(s suspicion, _ answer) bool { return st.needs[s.key] == nil || st.clients[s.key] != s.has })
	for _, id := range have.UserAssigned {
		key := ledger.Key(id)
		entry, ours := st.ledger[key]
		principal := canonical(have.PrincipalIDs[id])
		if !have.Updating && !st.stale[key] && principal != "" {
			st.renewed(key) // it never left, or is back
			entry = st.ledger[key]
		}
		if ours && !entry.Keep && principal != "" {
			st.notePrincipal(key, entry, principal)
		}
	}
}

// notePrincipal records which identity the group lists under the name. mu is held.
func (st *state) notePrincipal(key string, entry ledger.Entry, principal string) {
	other := entry.PrincipalID != "" && entry.PrincipalID != principal
	switch {
	case other && entry.Foreign:
		delete(st.ledger, key) // it is not the one that Azure let podid assign
	case other:
		st.stale[key] = true
	default:
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

// suspicion is that an AzureIdentity names another client ID than the node group has: either the
// AzureIdentity is wrong, or it was corrected after the identity was made again.
type suspicion struct{ key, said, has string }

// answer is what became of a suspicion.
type answer int

const (
	unheard   answer = iota // Azure was not asked
	unknown                 // Azure was asked and did not tell
	confirmed               // the node group has the right client ID
)

// suspect is a suspicion with the resource ID to ask about.
type suspect struct {
	suspicion
	resourceID string
}

// suspects returns those that Azure has not told about yet.
func (st *state) suspects() (found []suspect) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for key, n := range st.needs {
		has := st.clients[key]
		for u := range n.users {
			s := suspicion{key, u.clientID, has}
			if u.clientID == "" || has == "" || u.clientID == has || st.stale[key] || st.cleared[s] == confirmed {
				continue
			}
			if len(found) < mostSuspects && !slices.Contains(found, suspect{s, n.spelling}) {
				found = append(found, suspect{s, n.spelling})
			}
		}
	}
	return found
}

// mostSuspects bounds the requests of one pass.
const mostSuspects = 10

// investigate asks Azure about suspects: only Azure knows which client ID the
// identity has now. Anybody may write an AzureIdentity, so what it says alone takes
// nothing off a machine.
func (r *Reconciler) investigate(ctx context.Context, st *state) {
	log := logr.FromContextOrDiscard(ctx)
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	found := st.suspects()
	for i, s := range found {
		clientID, err := r.cloud.ClientID(ctx, s.resourceID)
		if err != nil {
			// One failure a comparison is enough: the group's pods wait for
			// this, and its turn comes again, in another order.
			log.V(1).Info("identity not looked up, will be after the next comparison with Azure", "resourceID", s.resourceID, "cause", err.Error())
			st.unanswered(found[i:])
			break
		}
		if st.judge(s, canonical(clientID)) {
			log.Info("identity was deleted and made again, attaching it anew", "resourceID", s.resourceID)
		} else {
			log.Info("refused an AzureIdentity that names another client ID than its resource ID has", "resourceID", s.resourceID)
		}
	}
	if len(found) > 0 {
		r.tell(st)
	}
}

// unanswered records suspicions about which Azure did not tell: the AzureIdentity counts as wrong.
func (st *state) unanswered(suspects []suspect) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, s := range suspects {
		st.cleared[s.suspicion] = unknown
	}
}

// judge records what Azure said about a suspect, and reports whether it is stale.
func (st *state) judge(s suspect, clientID string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case clientID == s.has:
		st.cleared[s.suspicion] = confirmed
		return false
	case st.current.Has(s.key):
		st.stale[s.key] = true
		return true
	default:
		st.clients[s.key] = clientID
		return false
	}
}
