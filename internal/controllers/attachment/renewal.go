// Identities that were deleted and recreated under the same name. Azure keeps the old one on the
// machine, where it gets no tokens any more, until it is detached and attached again.

package attachment

import (
	"context"
	"slices"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

// findStale finds identities that have to be attached again, and records in the ledger which ones
// are attached. mu is held.
func (st *state) findStale(have compute.Identities) {
	clear(st.azure.stale)
	for key := range st.trouble.blockers {
		st.azure.stale[key] = true // Azure has refused an update because of it, however it lists it
	}
	if !have.Updating { // otherwise those in flight may not have their IDs yet
		for _, id := range have.Orphaned {
			// Nothing is behind it, so detaching it is harmless even if another writer attached
			// it. It is detached only to be attached again.
			st.azure.stale[ledger.Key(id)] = true
		}
	}
	st.azure.clientIDs.forgetAnswers(st.demand.needs)
	for _, id := range have.UserAssigned {
		if principal := canonical(have.PrincipalIDs[id]); principal != "" {
			st.recordPrincipal(ledger.Key(id), principal, have.Updating)
		}
	}
}

// recordPrincipal records which identity the group lists under a name. mu is held.
func (st *state) recordPrincipal(key, principal string, updating bool) {
	if !updating && !st.azure.stale[key] {
		st.ledger.endRenewal(key) // it never left, or is back
	}
	entry, ok := st.ledger.entries[key]
	if !ok || entry.Keep {
		return
	}
	switch recreated := entry.PrincipalID != "" && entry.PrincipalID != principal; {
	case recreated && entry.Foreign:
		delete(st.ledger.entries, key) // it is not the one that Azure let podid assign
	case recreated:
		st.azure.stale[key] = true
	default:
		entry.PrincipalID = principal
		st.ledger.entries[key] = entry
	}
}

// addUnfinishedRenewals adds identities of other writers that podid detached for renewal and that
// no pod needs any more. mu is held.
func (st *state) addUnfinishedRenewals(in assignment.Group) {
	for key, entry := range st.ledger.entries {
		if entry.Renewing && !st.azure.current.Has(key) && !in.Desired.Has(key) {
			in.Desired[key], in.Early[key] = entry.ResourceID, entry.ResourceID
		}
	}
}

// maxMismatches bounds the lookups of one pass.
const maxMismatches = 10

// openMismatch is a mismatch that Azure has not confirmed, with the resource ID to look up.
type openMismatch struct {
	mismatch
	resourceID string
}

// openMismatches returns the first maxMismatches that Azure has not confirmed.
func (st *state) openMismatches() (found []openMismatch) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for key, n := range st.demand.needs {
		listed := st.azure.clientIDs.listed[key]
		if listed == "" || st.azure.stale[key] {
			continue
		}
		for r := range n.requesters {
			m := mismatch{key, r.clientID, listed}
			if r.clientID == "" || r.clientID == listed || st.azure.clientIDs.answers[m] == confirmed {
				continue
			}
			if open := (openMismatch{m, n.spelling}); len(found) < maxMismatches && !slices.Contains(found, open) {
				found = append(found, open)
			}
		}
	}
	return found
}

// resolveMismatches looks up which client ID an identity has now. An AzureIdentity alone does not
// get an identity detached, because anyone with access to its namespace may write one.
func (c *Controller) resolveMismatches(ctx context.Context, st *state) {
	log := logr.FromContextOrDiscard(ctx)
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	found := st.openMismatches()
	for i, m := range found {
		clientID, err := c.cloud.ClientID(ctx, m.resourceID)
		if err != nil {
			// One failure per comparison is enough, because the group's pods wait for this. The
			// others are looked up after the next comparison, in another order.
			log.V(1).Info("identity not looked up, will be after the next comparison with Azure",
				"resourceID", m.resourceID, "cause", err.Error())
			st.markUnknown(found[i:])
			break
		}
		if st.resolve(m, canonical(clientID)) {
			log.Info("identity was deleted and recreated, attaching it again", "resourceID", m.resourceID)
		} else {
			log.Info("refused an AzureIdentity that names another client ID than its resource ID has",
				"resourceID", m.resourceID)
		}
	}
	if len(found) > 0 {
		c.notify(st)
	}
}

// markUnknown records mismatches for which Azure gave no answer: the AzureIdentity counts as wrong.
func (st *state) markUnknown(open []openMismatch) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, m := range open {
		st.azure.clientIDs.answers[m.mismatch] = unknown
	}
}

// resolve records which client ID the identity has now, and reports whether the one on the group is
// stale.
func (st *state) resolve(m openMismatch, clientID string) (stale bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case clientID == m.listed:
		st.azure.clientIDs.answers[m.mismatch] = confirmed
	case st.azure.current.Has(m.key):
		st.azure.stale[m.key] = true
		return true
	default:
		st.azure.clientIDs.listed[m.key] = clientID
	}
	return false
}
