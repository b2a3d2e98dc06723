// What the pod controller and the attachment controller share: which pods need which identities of
// a node group, and how far those are.

package attachment

import (
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/wakeup"
)

// Groups is the memory of all node groups. The pod controller places pods and is notified when
// their identities make progress; the attachment controller reads what the pods need and writes
// what Azure has. The cost of a call does not depend on the number of pods, except for notifying
// those that wait for the same identity. It may be used concurrently.
//
// Nothing here is durable: the needs follow from pods, bindings and identities, and what podid
// attached is in the ledger.
type Groups struct {
	now              func() time.Time
	notify           func(pods ...types.NamespacedName)
	notifyIdentities func(names ...types.NamespacedName)
	wake             wakeup.Queue[compute.Group]

	mu          sync.Mutex
	caughtUp    bool
	states      map[compute.Group]*state
	placements  map[types.NamespacedName]placement
	preassigned map[types.NamespacedName]preassignment
	generation  uint64 // of preassigned
}

// placement is where a pod's needs are recorded.
type placement struct {
	group compute.Group
	keys  []string
}

// NewGroups returns an empty memory. now is time.Now except in tests. notify is called with pods
// whose identities have made progress, or have been refused. notifyIdentities is called with
// AzureIdentity objects whose conditions may have changed.
func NewGroups(now func() time.Time, notify, notifyIdentities func(...types.NamespacedName)) *Groups {
	return &Groups{
		now: now, notify: notify, notifyIdentities: notifyIdentities, states: map[compute.Group]*state{}, placements: map[types.NamespacedName]placement{},
		preassigned: map[types.NamespacedName]preassignment{},
	}
}

// Place replaces what a pod needs of its node group, and returns how far each identity is. From
// then on, identities that the group has stay for the pod, and missing ones are attached.
func (g *Groups) Place(pod types.NamespacedName, group compute.Group, needs []assignment.Need) []assignment.Progress {
	g.mu.Lock()
	defer g.mu.Unlock()
	before, placed := g.placements[pod]
	if placed && before.group != group {
		g.leave(pod, before)
		before = placement{}
	}
	st := g.locked(group)
	st.mu.Lock()
	defer st.mu.Unlock()
	keys, progress, work := st.place(pod, needs, g.now())
	for _, key := range before.keys {
		if !slices.Contains(keys, key) && st.remove(pod, key) {
			work = true
		}
	}
	g.placements[pod] = placement{group, keys}
	if work {
		g.wake.Add(group)
	}
	return progress
}

// place records a pod's needs. It returns their keys and progress, and reports whether there is
// something to do about them. mu is held.
func (st *state) place(
	pod types.NamespacedName, needs []assignment.Need, now time.Time,
) (keys []string, progress []assignment.Progress, work bool) {
	identities := map[string][]types.NamespacedName{}
	for _, n := range needs {
		key := n.ID.Key()
		if st.add(pod, n, now) {
			work = true
		}
		keys, progress = append(keys, key), append(progress, st.progress(key, requesterOf(n)))
		identities[key] = append(identities[key], n.Identity)
	}
	for key, names := range identities {
		if st.demand.needs[key].keep(pod, names) {
			work = true
		}
	}
	return keys, progress, work
}

// Leave removes everything that a pod needed.
func (g *Groups) Leave(pod types.NamespacedName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if before, placed := g.placements[pod]; placed {
		g.leave(pod, before)
	}
}

func (g *Groups) leave(pod types.NamespacedName, before placement) {
	st := g.locked(before.group)
	st.mu.Lock()
	defer st.mu.Unlock()
	work := false
	for _, key := range before.keys {
		if st.remove(pod, key) {
			work = true
		}
	}
	delete(g.placements, pod)
	if work {
		g.wake.Add(before.group)
	}
}

// CaughtUp records that every existing pod has been placed. Before that, what is not needed is
// unknown, and a first update would leave out most of what is needed.
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

// locked is of while mu is held.
func (g *Groups) locked(group compute.Group) *state {
	st, ok := g.states[group]
	if !ok {
		st = newState()
		g.states[group] = st
	}
	return st
}

// drop forgets a group that has no nodes, unless pods need something of it or podid attached
// something to it. It returns the identities whose quarantine ends.
func (g *Groups) drop(group compute.Group) (lifted []types.NamespacedName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := g.locked(group)
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.empty() {
		return nil
	}
	for _, q := range st.trouble.quarantined {
		lifted = append(lifted, q.identities...)
	}
	delete(g.states, group)
	return lifted
}

// retry makes all groups that have an identity in quarantine retry it.
func (g *Groups) retry(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for group, st := range g.states {
		if with(st, func() bool { return st.trouble.retryNow(key, now) }) {
			g.wake.Add(group)
		}
	}
}
