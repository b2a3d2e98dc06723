// What MIC remembers about node groups between reconciliations.

package attachment

import (
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
)

// claimTTL bounds how long a claim keeps an identity on a node group while no
// assigned identity backs it. The object follows its claim within milliseconds;
// the rest is for an API server that is away just then.
const claimTTL = 10 * time.Second

// Groups is the memory of all node groups. It is shared: the attachment
// reconciler writes what Azure has, the assignedidentity reconciler claims.
// Nothing here is durable; what must be is in the Ledger.
type Groups struct {
	now func() time.Time

	mu     sync.Mutex
	states map[compute.Group]*state
}

// NewGroups returns an empty memory. now is time.Now but for tests.
func NewGroups(now func() time.Time) *Groups {
	return &Groups{now: now, states: map[compute.Group]*state{}}
}

// claimKey is one pod's need for one identity.
type claimKey struct {
	pod types.NamespacedName
	key string // identity.ResourceID.Key
}

type claim struct {
	spelling string
	expires  time.Time
}

// quarantine is what is known about an identity that Azure refused.
type quarantine struct {
	retry      time.Time
	times      int // refusals in a row
	state      assignment.State
	identities []types.NamespacedName // the AzureIdentity objects, for the metric
}

// state is the memory of one node group. Only its reconciler, of which one runs
// at a time, changes it, but for claims, quarantined and refresh; mu guards it
// against those who look on.
type state struct {
	mu sync.Mutex

	// current is what the group has: nil until Azure was asked, kept up by
	// every update since.
	current assignment.Set
	// clients are the client ids that Azure told with current, by canonical
	// resource ID.
	clients map[string]string
	// leaving are identities that an update under way detaches.
	leaving map[string]bool
	// arriving are identities of ours that Azure lists while it carries out an
	// update that this program did not begin (another one did, and died): the
	// machines may not have them yet. arrivingSince is when that was first seen.
	arriving      map[string]bool
	arrivingSince time.Time
	// behind tells that a write met an object newer than the cache.
	behind bool
	// refresh asks for Azure to be read before anything else is done.
	refresh bool

	// ledger is what is ours, nil until loaded; saved is what was last written.
	ledger, saved map[string]Entry

	// claims are needs whose assigned identity may not be in the cache yet.
	claims      map[claimKey]claim
	quarantined map[string]*quarantine
	unneeded    map[string]time.Time
	waiting     map[types.NamespacedName]time.Time

	// trouble is what keeps the whole group from getting anything: set while
	// podid may not update it or it does not exist.
	trouble assignment.State
	// failures in a row, and until when to leave Azure alone because of them.
	failures  int
	notBefore time.Time
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
		st = &state{
			leaving: map[string]bool{}, claims: map[claimKey]claim{}, quarantined: map[string]*quarantine{},
			unneeded: map[string]time.Time{}, waiting: map[types.NamespacedName]time.Time{},
		}
		g.states[group] = st
	}
	return st
}

// drop forgets a group without nodes that nothing is known to be left on, and
// returns the quarantines that end with it.
func (g *Groups) drop(group compute.Group) (lifted []types.NamespacedName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := g.locked(group)
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, q := range st.quarantined {
		lifted = append(lifted, q.identities...)
	}
	clear(st.quarantined)
	if len(st.claims) == 0 && len(st.ledger) == 0 {
		delete(g.states, group)
	}
	return lifted
}

// Claim says that a pod on the group needs the identity, and tells whether the
// group has it and keeps it: then the pod's assigned identity may say Assigned
// at once. From here on the identity is not detached, although the object that
// says so may not have reached the cache yet.
func (g *Groups) Claim(group compute.Group, pod types.NamespacedName, id identity.ResourceID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := g.locked(group)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.claims[claimKey{pod, id.Key()}] = claim{spelling: id.String(), expires: g.now().Add(claimTTL)}
	return st.usable(id.Key())
}

// usable tells whether the group has the identity and keeps it. mu is held.
func (st *state) usable(key string) bool {
	return st.current.Has(key) && !st.leaving[key] && !st.arriving[key]
}

// missed notes that a write met an object newer than the cache.
func (st *state) missed() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.behind = true
}

// soon tells when to look again, 0 for not: what was missed in the cache is there
// in a moment, what is arriving in seconds, if Azure is asked.
func (st *state) soon() time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.behind:
		st.behind = false
		return catchUp
	case len(st.arriving) > 0:
		st.refresh = true
		return lookAgain
	default:
		return 0
	}
}

// release takes a claim back.
func (g *Groups) release(group compute.Group, key claimKey) {
	st := g.of(group)
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.claims, key)
}

// lift ends the quarantine of an identity wherever it is in one, and returns
// those groups.
func (g *Groups) lift(key string) (groups []compute.Group, lifted []types.NamespacedName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for group, st := range g.states {
		st.mu.Lock()
		if q, ok := st.quarantined[key]; ok {
			delete(st.quarantined, key)
			groups, lifted = append(groups, group), append(lifted, q.identities...)
		}
		st.mu.Unlock()
	}
	return groups, lifted
}

// resting tells how long Azure is to be left alone yet about this group.
func (st *state) resting(now time.Time) time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.notBefore.Sub(now)
}

// known tells whether the ledger is loaded and Azure was asked, and whether it
// is to be asked again.
func (st *state) known() (ledger, azure bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.ledger != nil, st.current != nil && !st.refresh
}

// wants merges the needs of the cache with the claims, and drops claims that
// the cache confirms or that expired. It returns when the next one expires. mu
// is held.
func (st *state) wants(seen map[claimKey]string, now time.Time) (desired assignment.Set, expiry time.Time) {
	desired = assignment.Set{}
	for need, spelling := range seen {
		desired[need.key] = spelling
		delete(st.claims, need)
	}
	for need, c := range st.claims {
		if !c.expires.After(now) {
			delete(st.claims, need)
			continue
		}
		// A claim keeps what is there. To fetch what is not is the assigned
		// identity's business, once it is written.
		if st.current.Has(need.key) && !desired.Has(need.key) {
			desired[need.key] = c.spelling
		}
		if expiry.IsZero() || c.expires.Before(expiry) {
			expiry = c.expires
		}
	}
	return desired, expiry
}

// plan asks the planner, and marks what is about to leave in the same breath, so
// that no claim slips in between.
func (st *state) plan(seen map[claimKey]string, immutable map[string]bool, grace time.Duration, now time.Time) assignment.GroupPlan {
	st.mu.Lock()
	defer st.mu.Unlock()
	desired, expiry := st.wants(seen, now)
	in := assignment.Group{
		Desired: desired, Current: st.current, Ledger: assignment.Set{},
		Immutable: func(key string) bool {
			return immutable[key] || immutable[st.ledger[key].clientKey()] || immutable[st.clients[key]]
		},
		Quarantined: map[string]time.Time{}, UnneededSince: st.unneeded, Grace: grace, Now: now,
	}
	for key, entry := range st.ledger {
		in.Ledger[key] = entry.ResourceID
	}
	for key, q := range st.quarantined {
		in.Quarantined[key] = q.retry
	}
	plan := assignment.ForGroup(in)
	st.unneeded = plan.UnneededSince
	for _, id := range plan.Detach {
		st.leaving[keyOf(id)] = true
	}
	if !expiry.IsZero() && (plan.Next.IsZero() || expiry.Before(plan.Next)) {
		plan.Next = expiry
	}
	return plan
}

// stay takes back what plan marked as leaving.
func (st *state) stay() {
	st.mu.Lock()
	defer st.mu.Unlock()
	clear(st.leaving)
}

// unrecorded tells whether any of these identities is not in the ledger.
func (st *state) unrecorded(ids ...[]string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, id := range slices.Concat(ids...) {
		if _, ok := st.ledger[keyOf(id)]; !ok {
			return true
		}
	}
	return false
}

// read takes what Azure says at that time.
func (st *state) read(have compute.Identities, now time.Time) {
	current, clients := assignment.Set{}, map[string]string{}
	for _, id := range have.UserAssigned {
		current[keyOf(id)] = id
		if client := have.ClientIDs[id]; client != "" {
			clients[keyOf(id)] = lower(client)
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.arrive(current, have.Updating, now)
	st.clients = clients
	st.current, st.refresh, st.trouble = current, false, assignment.State{}
}

// arrive notes which identities may not be on the machines yet. An update that
// takes longer than any of ours may is not one: somebody upgrades the machines,
// and the identities have long been there. mu is held.
func (st *state) arrive(current assignment.Set, updating bool, now time.Time) {
	before := st.arriving
	st.arriving = nil
	if !updating {
		st.arrivingSince = time.Time{}
		return
	}
	if st.arrivingSince.IsZero() {
		st.arrivingSince = now
	}
	if now.Sub(st.arrivingSince) >= patchTimeout {
		return
	}
	for key := range st.ledger {
		if current.Has(key) && (before[key] || !st.current.Has(key)) {
			if st.arriving == nil {
				st.arriving = map[string]bool{}
			}
			st.arriving[key] = true
		}
	}
}

// done takes an update that Azure has carried out, and returns the quarantines
// that it ended.
func (st *state) done(req assignment.Request) (lifted []types.NamespacedName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.failures, st.notBefore, st.trouble = 0, time.Time{}, assignment.State{}
	st.arriving, st.arrivingSince = nil, time.Time{}
	st.current = maps.Clone(st.current)
	for _, id := range req.Attach {
		st.current[keyOf(id)] = id
	}
	for _, id := range req.Detach {
		delete(st.current, keyOf(id))
		delete(st.leaving, keyOf(id))
		delete(st.ledger, keyOf(id))
		delete(st.unneeded, keyOf(id))
	}
	for _, id := range slices.Concat(req.Attach, req.Detach) {
		if q, ok := st.quarantined[keyOf(id)]; ok {
			delete(st.quarantined, keyOf(id))
			lifted = append(lifted, q.identities...)
		}
	}
	return lifted
}

// doubt takes an update of which nobody knows whether Azure carried it out: what
// it detached counts as gone, what it attached as not there, until Azure was asked.
func (st *state) doubt(req assignment.Request) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.refresh = true
	st.current = maps.Clone(st.current)
	for _, id := range req.Detach {
		delete(st.current, keyOf(id))
	}
}

// keyOf is the canonical form of a resource ID, also of one that Azure spells in
// a way that we cannot parse.
func keyOf(resourceID string) string {
	if id, err := identity.ParseResourceID(resourceID); err == nil {
		return id.Key()
	}
	return lower(resourceID)
}
