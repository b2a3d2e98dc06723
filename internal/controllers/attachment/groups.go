// What the two controllers know together: which pods need which identities of a
// node group, and how far those are.

package attachment

import (
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/kick"
)

// Groups is the memory of all node groups. The pod controller places pods and is
// told when their identities get further; the attachment controller reads what
// the pods need and writes what Azure has. No call takes longer the more pods
// there are, but for telling those that wait for the same identity.
//
// Nothing here is durable: the needs follow from pods, bindings and identities,
// and what is on Azure by podid's doing is in the Ledger.
type Groups struct {
	now  func() time.Time
	tell func(pods ...types.NamespacedName)
	wake kick.Queue[compute.Group]

	mu          sync.Mutex
	caughtUp    bool
	states      map[compute.Group]*state
	homes       map[types.NamespacedName]home
	preassigned map[types.NamespacedName]preassignment
	edition     uint64 // counts the changes of preassigned
}

// home is where a pod's needs are recorded.
type home struct {
	group compute.Group
	keys  []string
}

// NewGroups returns an empty memory. now is time.Now but for tests; tell is called
// with pods whose identities have got further, or not.
func NewGroups(now func() time.Time, tell func(pods ...types.NamespacedName)) *Groups {
	return &Groups{
		now: now, tell: tell, states: map[compute.Group]*state{}, homes: map[types.NamespacedName]home{},
		preassigned: map[types.NamespacedName]preassignment{},
	}
}

// Place records what a pod needs of its node group, instead of what it needed
// before, and tells how far each identity is. From here on what the group has is
// kept for the pod, and what it has not is on its way.
func (g *Groups) Place(pod types.NamespacedName, group compute.Group, needs []assignment.Need) []assignment.Progress {
	g.mu.Lock()
	defer g.mu.Unlock()
	if before, placed := g.homes[pod]; placed && before.group != group {
		g.leave(pod, before)
	}
	st := g.locked(group)
	st.mu.Lock()
	defer st.mu.Unlock()
	keys := make([]string, 0, len(needs))
	progress := make([]assignment.Progress, 0, len(needs))
	work := false
	for _, n := range needs {
		key := n.ID.Key()
		work = st.add(pod, n, g.now()) || work
		keys, progress = append(keys, key), append(progress, st.progress(key, userOf(n)))
	}
	by := map[string][]types.NamespacedName{}
	for i, n := range needs {
		by[keys[i]] = append(by[keys[i]], n.Identity)
	}
	for key, identities := range by {
		work = st.needs[key].keep(pod, identities) || work
	}
	for _, key := range g.homes[pod].keys {
		if !slices.Contains(keys, key) {
			work = st.remove(pod, key) || work
		}
	}
	g.homes[pod] = home{group, keys}
	if work {
		g.wake.Add(group)
	}
	return progress
}

// Leave takes back all that a pod needed.
func (g *Groups) Leave(pod types.NamespacedName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if before, placed := g.homes[pod]; placed {
		g.leave(pod, before)
	}
}

func (g *Groups) leave(pod types.NamespacedName, before home) {
	st := g.locked(before.group)
	st.mu.Lock()
	defer st.mu.Unlock()
	work := false
	for _, key := range before.keys {
		work = st.remove(pod, key) || work
	}
	delete(g.homes, pod)
	if work {
		g.wake.Add(before.group)
	}
}

// CaughtUp says that every pod there is has been placed. Until then nobody knows
// what is not needed, and a first update would leave out most of what is.
func (g *Groups) CaughtUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.caughtUp = true
	for group, st := range g.states {
		if len(g.preassigned) > 0 || !st.idle() {
			g.wake.Add(group)
		}
	}
}

func (g *Groups) isCaughtUp() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.caughtUp
}

// of returns the memory of a group, an empty one if there is none yet.
func (g *Groups) of(group compute.Group) *state {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.locked(group)
}

func (g *Groups) locked(group compute.Group) *state {
	st, ok := g.states[group]
	if !ok {
		st = newState()
		g.states[group] = st
	}
	return st
}

// drop forgets a group without nodes that nothing is known to be left on, and
// returns the identities whose quarantine ends with it.
func (g *Groups) drop(group compute.Group) (lifted []types.NamespacedName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := g.locked(group)
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.needs) > 0 || len(st.ledger) > 0 {
		return nil
	}
	for _, q := range st.quarantined {
		lifted = append(lifted, q.identities...)
	}
	delete(g.states, group)
	return lifted
}

// lift gives identities in quarantine another chance, wherever they are in one,
// and wakes those groups.
func (g *Groups) lift(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for group, st := range g.states {
		st.mu.Lock()
		if q, ok := st.quarantined[key]; ok && q.chances.AllowN(now, 1) {
			q.retry = now
			g.wake.Add(group)
		}
		st.mu.Unlock()
	}
}

// add records a need, and reports whether there is something to do about it. mu is
// held.
func (st *state) add(pod types.NamespacedName, n assignment.Need, now time.Time) (work bool) {
	key := n.ID.Key()
	have, ok := st.needs[key]
	if !ok {
		have = newNeed()
		st.needs[key] = have
	}
	before := st.demand(key)
	have.spelling, have.clientID = n.ID.String(), n.ClientID
	u := userOf(n)
	a := have.place(pod, seat{u, n.Assigned})
	after := st.demand(key)
	if after.wanted {
		delete(st.unneeded, key) // the grace begins again when the last pod has gone
	}
	if (!ok || before != after) && after.wanted && !st.satisfied(key, after) {
		work = true
		if !st.refused(key, now) {
			st.asked(now)
		}
	}
	if st.suspected(key, u) && st.comparisons.AllowN(now, 1) {
		st.refresh, work = true, true
	}
	// Where this pod was told something else than the others, the next change is told to all:
	// it may be what the others were told.
	if is := st.progress(key, u); a.pods == 1 {
		a.told = is
	} else if is != a.told {
		a.told = assignment.Progress{}
	}
	return work
}

// refused tells whether an identity is in quarantine, and not to be tried yet. mu
// is held.
func (st *state) refused(key string, now time.Time) bool {
	q := st.quarantined[key]
	return q != nil && q.retry.After(now)
}

// remove takes a pod's need back, and reports whether that leaves something to do.
// mu is held.
func (st *state) remove(pod types.NamespacedName, key string) (work bool) {
	have, ok := st.needs[key]
	if !ok {
		return false
	}
	_, ours := st.ledger[key]
	before := st.demand(key)
	have.leave(pod)
	if len(have.pods) > 0 {
		return ours && before.wanted && !st.demand(key).wanted
	}
	delete(st.needs, key)
	// A group of which no pod needs anything may be one to forget.
	return ours || st.ledger == nil || st.quarantined[key] != nil || len(st.needs) == 0
}

// progress is how far an identity is for the pods that need it by that AzureIdentity. mu is held.
func (st *state) progress(key string, u user) assignment.Progress {
	objection, pending := st.objection(key, u)
	there := st.there(key)
	onItsWay := assignment.State{Status: v1.StateCreated}
	switch {
	case objection.Reason != "":
		return assignment.Progress{State: objection}
	case there && (pending || st.unread[key]):
		return assignment.Progress{State: onItsWay}
	case there && (u.named || st.vouched(key)):
		return assignment.Progress{State: assignment.State{Status: v1.StateAssigned}}
	}
	if q, ok := st.quarantined[key]; ok {
		return assignment.Progress{State: q.state}
	}
	if st.trouble.Reason != "" {
		return assignment.Progress{State: st.trouble, KeepAssigned: there}
	}
	if st.current == nil && st.failures == 0 {
		return assignment.Progress{Unknown: true}
	}
	return assignment.Progress{State: onItsWay, Complaint: st.complaint}
}

// news returns the pods that have to be told that an identity got further, or
// not, since they were told last.
func (st *state) news() (pods []types.NamespacedName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for key, n := range st.needs {
		changed := map[user]bool{}
		for u, a := range n.users {
			if now := st.progress(key, u); now != a.told {
				a.told, changed[u] = now, true
			}
		}
		if len(changed) == 0 {
			continue
		}
		for pod, seats := range n.pods {
			for _, s := range seats {
				if changed[s.user] {
					pods = append(pods, pod)
					break
				}
			}
		}
	}
	return pods
}

// identities are the AzureIdentity objects by which pods need an identity. mu is
// held.
func (st *state) identities(key string) (names []types.NamespacedName) {
	n, ok := st.needs[key]
	if !ok {
		return nil
	}
	for u := range n.users {
		if !slices.Contains(names, u.identity) {
			names = append(names, u.identity)
		}
	}
	return names
}
