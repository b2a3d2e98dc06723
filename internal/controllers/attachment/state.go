// What MIC remembers of one node group between reconciliations.

package attachment

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/reason"
)

// state is the memory of one node group. The pod controller writes demand, through Groups; the
// group's reconciler, of which one runs at a time, writes the rest. mu guards all of it; the four
// values have no locks of their own.
type state struct {
	mu      sync.Mutex
	demand  demand
	azure   azureView
	ledger  groupLedger
	trouble trouble
}

func newState() *state {
	return &state{
		demand: demand{needs: map[string]*need{}, unneededSince: map[string]time.Time{}},
		azure: azureView{
			detaching: map[string]bool{}, unread: map[string]bool{}, stale: map[string]bool{},
			clientIDs:   clientIDs{answers: map[mismatch]answer{}},
			comparisons: rate.NewLimiter(rate.Every(comparisonEvery), maxComparisons),
		},
		ledger:  groupLedger{pending: map[string]ledger.Entry{}},
		trouble: trouble{quarantined: map[string]*quarantine{}, blockers: map[string]bool{}},
	}
}

// with returns what get returns while mu is held.
func with[T any](st *state, get func() T) T {
	st.mu.Lock()
	defer st.mu.Unlock()
	return get()
}

// known reports whether Azure has been read and need not be read again.
func (st *state) known() bool { return with(st, st.azure.known) }

// loaded reports whether the ledger has been read.
func (st *state) loaded() bool { return with(st, func() bool { return st.ledger.entries != nil }) }

// idle reports whether no pod needs anything and nothing of podid's is attached.
func (st *state) idle() bool { return with(st, st.empty) }

// empty is idle. mu is held.
func (st *state) empty() bool { return len(st.demand.needs) == 0 && len(st.ledger.entries) == 0 }

// backOffLeft returns how long Azure is to be left alone about this group.
func (st *state) backOffLeft(now time.Time) time.Duration {
	return with(st, func() time.Duration { return st.trouble.notBefore.Sub(now) })
}

// updateDelay returns how long an update has to wait: for the end of a burst of needs, or of the
// update of another MIC.
func (st *state) updateDelay(now time.Time) time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	return max(st.demand.burstDelay(now), st.azure.predecessorDelay(&st.ledger, now))
}

// beginUpdate records that this process updates the group.
func (st *state) beginUpdate() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.azure.external.ignored = true
	st.demand.included()
}

// waitingSince returns when the oldest need came that no update has begun to include, or the zero
// time.
func (st *state) waitingSince() time.Time {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.demand.waitingSince
}

// needSummary is what the pods that need an identity ask for.
type needSummary struct {
	wanted  bool // by an AzureIdentity that is not refused
	verify  bool // and that the policy does not name
	waiting bool // and not all of its pods are Assigned
}

// summary returns what is asked for. mu is held.
func (st *state) summary(key string) (s needSummary) {
	n := st.demand.needs[key]
	if n == nil {
		return s
	}
	for r, count := range n.requesters {
		if refusal, _ := st.azure.refusal(key, r); refusal.Reason != "" {
			continue
		}
		s.wanted = true
		s.verify = s.verify || !r.named
		s.waiting = s.waiting || !r.named && count.assigned < count.pods
	}
	return s
}

// satisfied reports whether the group has what is asked for. mu is held.
func (st *state) satisfied(key string, s needSummary) bool {
	return st.azure.attached(key) && !st.azure.unread[key] && (st.ledger.assignable(key) || !s.waiting)
}

// plan returns the planner's plan. It marks what is about to be detached under the same lock, so
// that no need is satisfied by it in between. immutable are identities never to detach.
func (st *state) plan(
	extra preassignedSet, immutable map[string]bool, grace time.Duration, now time.Time,
) assignment.GroupPlan {
	st.mu.Lock()
	defer st.mu.Unlock()
	in := assignment.Group{
		Desired: assignment.Set{}, Early: assignment.Set{}, Ledger: assignment.Set{},
		Current: st.azure.current, Stale: st.azure.stale,
		Immutable:   func(key string) bool { return st.immutable(key, immutable) },
		Tenants:     func(key string) []string { return namespaces(st.demand.identities(key), extra.names[key]) },
		Quarantined: map[string]time.Time{}, UnneededSince: st.demand.unneededSince, Grace: grace, Now: now,
		Unverified: map[string]bool{}, Patient: map[string]bool{},
	}
	st.demand.preassignedBy, st.demand.planned = extra.names, now
	maps.Copy(in.Desired, extra.set)
	maps.Copy(in.Early, extra.set)
	for key, n := range st.demand.needs {
		if st.summary(key).wanted {
			in.Desired[key] = n.spelling
			delete(in.Early, key)
		}
	}
	st.addUnverified(in)
	st.addUnfinishedRenewals(in)
	spellings := countSpellings(in.Desired)
	for key, entry := range st.ledger.entries {
		if (entry.Owned() || !st.azure.current.Has(key)) && !desiredOtherwise(in.Desired, spellings, key) {
			in.Ledger[key] = entry.ResourceID
		}
	}
	for key, q := range st.trouble.quarantined {
		in.Quarantined[key] = q.retry
	}
	plan := assignment.ForGroup(in)
	st.demand.unneededSince = plan.UnneededSince
	for _, id := range plan.Detach {
		st.azure.detaching[ledger.Key(id)] = true
	}
	return plan
}

// addUnverified adds what is desired and on the group, and which podid may not assign as far as is
// known. mu is held.
func (st *state) addUnverified(in assignment.Group) {
	for key := range in.Desired {
		if !st.azure.current.Has(key) || st.ledger.assignable(key) || st.azure.stale[key] {
			continue
		}
		s := st.summary(key)
		in.Unverified[key] = s.verify || !s.wanted
		in.Patient[key] = !s.waiting
	}
}

// immutable reports whether an identity is never to be detached, by its resource ID or its client
// ID. mu is held.
func (st *state) immutable(key string, list map[string]bool) bool {
	return list[ascii.Loose(key)] || list[st.ledger.entries[key].ClientKey()] || list[st.azure.clientIDs.listed[key]]
}

// retainOwned removes from the set what is not in the ledger.
func (st *state) retainOwned(set assignment.Set) {
	st.mu.Lock()
	defer st.mu.Unlock()
	maps.DeleteFunc(set, func(key, _ string) bool { return !st.ledger.has(key) })
}

// cancelDetach undoes what plan marked as about to be detached. It reports whether there was any,
// so that pods that were placed meanwhile are notified.
func (st *state) cancelDetach() (any bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	any = len(st.azure.detaching) > 0
	clear(st.azure.detaching)
	return any
}

// unrecorded returns those of the identities that are not in the ledger.
func (st *state) unrecorded(ids ...[]string) []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.DeleteFunc(slices.Concat(ids...), func(id string) bool { return st.ledger.has(ledger.Key(id)) })
}

// read records what Azure has at that time. extra are identities that the group is to have without
// any pod.
func (st *state) read(have compute.Identities, extra assignment.Set, now time.Time) {
	have = have.Respelled(st.spellings(extra))
	current := assignment.Set{}
	for _, id := range have.UserAssigned {
		current[ledger.Key(id)] = id
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.azure.external.observe(have.Updating, now, st.azure.current, current, st.ledger.entries)
	st.azure.current, st.azure.refresh = current, false
	st.azure.recordClientIDs(listedClientIDs(have), st.demand.needs)
	if st.trouble.group.Reason == reason.GroupMissing.Name() {
		st.trouble.group = assignment.State{} // other troubles end with an update that succeeds
	}
	st.findStale(have)
	if !have.Updating {
		st.ledger.dropUnconfirmed(current)
	}
}

// spellings returns the resource IDs that this group needs, or that podid attached to it.
func (st *state) spellings(extra assignment.Set) []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	ids := slices.Collect(maps.Values(extra))
	for _, n := range st.demand.needs {
		ids = append(ids, n.spelling)
	}
	for _, entry := range st.ledger.entries {
		ids = append(ids, entry.ResourceID)
	}
	return ids
}

// readClientIDs records the client IDs of what was attached, between two requests of an update.
// Because the update is not over, it ignores what else Azure has.
func (st *state) readClientIDs(have compute.Identities, extra assignment.Set) {
	listed := listedClientIDs(have.Respelled(st.spellings(extra)))
	st.mu.Lock()
	defer st.mu.Unlock()
	st.azure.recordClientIDs(listed, st.demand.needs)
}

// done records a request that Azure carried out, and returns the identities whose quarantine it
// ended.
func (st *state) done(req assignment.Request) (lifted []types.NamespacedName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.trouble.recovered()
	st.azure.external.end()
	st.ledger.commit(req)
	st.azure.current = maps.Clone(st.azure.current)
	for _, id := range req.Attach {
		key := ledger.Key(id)
		st.ledger.attached(id, st.azure.current.Has(key), &st.demand)
		st.azure.current[key], st.azure.unread[key] = id, true
	}
	for _, id := range req.Detach {
		key := ledger.Key(id)
		st.azure.detached(key)
		st.ledger.detached(key)
		delete(st.demand.unneededSince, key)
	}
	for _, id := range slices.Concat(req.Attach, req.Detach) {
		lifted = append(lifted, st.trouble.release(ledger.Key(id))...)
	}
	return lifted
}

// markUncertain handles a request that failed. Unless Azure plainly refused it, its outcome is
// unknown, and its entries stay in the ledger. Until Azure has been read, what it detached counts
// as gone, and what it attached as not there.
func (st *state) markUncertain(req assignment.Request, cause error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !compute.Definite(cause) {
		st.ledger.commit(req)
	}
	st.azure.refresh = true
	st.azure.current = maps.Clone(st.azure.current)
	for _, id := range req.Detach {
		delete(st.azure.current, ledger.Key(id))
	}
}

// settle records that there is nothing to do now. It ends the quarantine of identities that are
// neither needed nor podid's to detach, and returns their AzureIdentity objects. extra are those
// needed without any pod.
func (st *state) settle(extra assignment.Set, now time.Time) (lifted []types.NamespacedName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.demand.firstAsked, st.demand.waitingSince, st.demand.begun = time.Time{}, time.Time{}, time.Time{}
	st.trouble.failures, st.trouble.complaint, st.trouble.remainders = 0, "", nil
	for key, q := range st.trouble.quarantined {
		if st.ledger.has(key) || st.demand.needs[key] != nil || extra.Has(key) {
			continue
		}
		lifted, q.identities = append(lifted, q.identities...), nil
		if !q.until.After(now) {
			delete(st.trouble.quarantined, key)
		}
	}
	return lifted
}

// quarantine leaves an identity out of the coming updates. It returns the AzureIdentity objects
// that ask for it, and when it is retried.
func (st *state) quarantine(
	id string, extra preassignedSet, why assignment.State, now time.Time,
) (identities []types.NamespacedName, retryAfter time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	key := ledger.Key(id)
	identities = slices.Concat(st.demand.identities(key), extra.names[key])
	retryAfter = st.trouble.refuse(key, identities, why, now)
	if !st.azure.current.Has(key) {
		if st.ledger.entries[key].Owned() {
			delete(st.ledger.entries, key)
		}
		st.ledger.endRenewal(key)
	}
	return identities, retryAfter
}

// failed records a failure of the whole group. It returns how long to leave Azure alone about it,
// and the number of failures in a row.
func (st *state) failed(cause error, retryInterval time.Duration, now time.Time) (pause time.Duration, failures int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.demand.failed()
	pause = st.trouble.failed(cause, retryInterval, now)
	return pause, st.trouble.failures
}

// missing records that Azure does not have the group: what podid attached is gone with it.
func (st *state) missing(why assignment.State) {
	st.mu.Lock()
	defer st.mu.Unlock()
	clear(st.ledger.entries)
	clear(st.demand.unneededSince)
	st.azure.current = nil
	st.trouble.failures, st.trouble.group = 0, why
}

// progress returns how far an identity is for the pods that need it by that AzureIdentity. mu is
// held.
func (st *state) progress(key string, r requester) assignment.Progress {
	refusal, pending := st.azure.refusal(key, r)
	attached := st.azure.attached(key)
	switch {
	case refusal.Reason != "":
		return assignment.Progress{State: refusal}
	case attached && (pending || st.azure.unread[key]):
		return assignment.Progress{State: assignment.State{Status: v1.StateCreated}}
	case attached && (r.named || st.ledger.assignable(key)):
		return assignment.Progress{State: assignment.State{Status: v1.StateAssigned}}
	}
	return st.hindrance(key, attached)
}

// hindrance returns the progress of an identity that pods do not have. mu is held.
func (st *state) hindrance(key string, attached bool) assignment.Progress {
	if q, ok := st.trouble.quarantined[key]; ok {
		return assignment.Progress{State: q.state}
	}
	if st.trouble.group.Reason != "" {
		return assignment.Progress{State: st.trouble.group, KeepAssigned: attached}
	}
	if st.azure.current == nil && st.trouble.failures == 0 {
		return assignment.Progress{Unknown: true}
	}
	return assignment.Progress{State: assignment.State{Status: v1.StateCreated}, Complaint: st.trouble.complaint}
}

// changes returns the pods whose progress differs from what they were last notified of.
func (st *state) changes() (pods []types.NamespacedName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for key, n := range st.demand.needs {
		changed := map[requester]bool{}
		for r, count := range n.requesters {
			if now := st.progress(key, r); now != count.notified {
				count.notified, changed[r] = now, true
			}
		}
		pods = append(pods, n.podsOf(changed)...)
	}
	return pods
}

// add records a need, and reports whether there is something to do about it. mu is held.
func (st *state) add(pod types.NamespacedName, n assignment.Need, now time.Time) (work bool) {
	key := n.ID.Key()
	have, ok := st.demand.needs[key]
	if !ok {
		have = newNeed()
		st.demand.needs[key] = have
	}
	before := st.summary(key)
	have.spelling, have.clientID = n.ID.String(), n.ClientID
	r := requesterOf(n)
	count := have.place(pod, podNeed{r, n.Assigned})
	after := st.summary(key)
	if after.wanted {
		delete(st.demand.unneededSince, key) // the grace begins again when the last pod has gone
	}
	if (!ok || before != after) && after.wanted && !st.satisfied(key, after) {
		work = true
		if !st.trouble.waiting(key, now) {
			st.demand.ask(now)
		}
	}
	if _, pending := st.azure.refusal(key, r); pending && st.azure.compareAgain(now) {
		work = true
	}
	count.join(st.progress(key, r))
	return work
}

// remove removes a pod's need, and reports whether that leaves something to do. mu is held.
func (st *state) remove(pod types.NamespacedName, key string) (work bool) {
	have, ok := st.demand.needs[key]
	if !ok {
		return false
	}
	owned := st.ledger.has(key)
	before := st.summary(key)
	have.keep(pod, nil)
	if len(have.pods) > 0 {
		return owned && before.wanted && !st.summary(key).wanted
	}
	delete(st.demand.needs, key)
	// Without any needs, the group may be one to forget.
	return owned || st.ledger.entries == nil || st.trouble.quarantined[key] != nil || len(st.demand.needs) == 0
}

// countSpellings counts the spellings in a set that Azure may treat as one identity each.
func countSpellings(set assignment.Set) map[string]int {
	counts := map[string]int{}
	for key := range set {
		if !ascii.Is(key) {
			counts[ascii.Loose(key)]++
		}
	}
	return counts
}

// desiredOtherwise reports whether the set has another spelling of the identity that Azure may
// treat as the same. Detaching one would detach the other, too.
func desiredOtherwise(set assignment.Set, counts map[string]int, key string) bool {
	if ascii.Is(key) {
		return false
	}
	others := counts[ascii.Loose(key)]
	if set.Has(key) {
		others--
	}
	return others > 0
}

// canonical is the form in which Azure's GUIDs are compared.
func canonical(id string) string { return ascii.ToLower(strings.TrimSpace(id)) }
