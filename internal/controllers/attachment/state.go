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

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

// quarantine is what is known about an identity that Azure refused.
type quarantine struct {
	retry      time.Time
	times      int // refusals in a row
	state      assignment.State
	identities []types.NamespacedName // the AzureIdentity objects, for the metric
	// until is how long it is remembered without anybody who needs it: who comes
	// and goes with a bad identity must not get it into the others' updates.
	until time.Time
	// chances bounds how often touching the object buys another try: each is an
	// update of the group, which others have to wait for.
	chances *rate.Limiter
}

// The chances of an identity in quarantine.
const (
	chanceEvery = 20 * time.Second
	chances     = 3
)

// The wait for a burst of needs to end before the first update: pods of one
// rollout arrive some milliseconds apart, and an update takes a scale set 40 to
// 60 s.
const (
	quiet     = 30 * time.Millisecond
	mostQuiet = 300 * time.Millisecond
)

// state is the memory of one node group. Its reconciler, of which one runs at a
// time, knows Azure; needs are the pod controller's. mu guards all of it.
type state struct {
	mu sync.Mutex

	// needs are what pods need, by canonical resource ID. firstAsked and
	// lastAsked are when the oldest and the newest were made that no update has
	// taken up yet.
	needs                 map[string]*need
	firstAsked, lastAsked time.Time

	// current is what the group has: nil until Azure was asked, kept up by
	// every update since.
	current assignment.Set
	// clients are the client IDs that Azure told with current, by canonical
	// resource ID; also those of needed identities that it listed before.
	clients map[string]string
	// unread are identities that were attached since Azure was read.
	unread map[string]bool
	// cluster are the client IDs of identities that are the cluster's own.
	cluster map[string]bool
	// stale are identities that the group lists and that have to leave and come
	// back, because what is behind them was deleted or made again.
	stale map[string]bool
	// blockers are those of them because of which Azure refused an update.
	blockers map[string]bool
	// cleared is what became of the question which of two client IDs is right.
	cleared map[suspicion]answer
	// leaving are identities that an update under way detaches.
	leaving map[string]bool
	// arriving are identities of ours that Azure lists while it carries out an
	// update that this program did not begin (another one did, and died): the
	// machines may not have them yet. arrivingSince is when that was first seen.
	arriving      map[string]bool
	arrivingSince time.Time
	// refresh asks for Azure to be read before anything else is done, which
	// comparisons bounds.
	refresh     bool
	comparisons *rate.Limiter

	// ledger is what is ours, nil until loaded; stored is what was last written.
	ledger map[string]ledger.Entry
	stored ledger.Record
	// attempted is what the last write would have saved, nil unless its outcome is unknown.
	attempted map[string]ledger.Entry
	// claims are the entries that the update under way wrote into the ledger, and
	// what it said before; zero where it said nothing.
	claims map[string]ledger.Entry
	// updating tells that Azure was carrying out an update when it was asked last,
	// and wrote that this program has made one.
	updating, wrote bool

	quarantined map[string]*quarantine
	unneeded    map[string]time.Time

	// early are the AzureIdentity objects by which identities are pre-assigned.
	early map[string][]types.NamespacedName
	// edition is that of the pre-assignments that were looked at last, and halves
	// are parts of a refused update that Azure has not been asked about yet.
	edition uint64
	halves  []assignment.Request

	// trouble is what keeps the whole group from getting anything: set while
	// podid may not update it or it does not exist. complaint is what keeps
	// failing although it should pass.
	trouble   assignment.State
	complaint string
	// failures in a row, the time of the first, and until when to leave Azure alone
	// because of them.
	failures           int
	failing, notBefore time.Time
}

func newState() *state {
	return &state{
		needs: map[string]*need{}, leaving: map[string]bool{}, quarantined: map[string]*quarantine{},
		unneeded: map[string]time.Time{}, stale: map[string]bool{}, blockers: map[string]bool{}, cleared: map[suspicion]answer{},
		claims: map[string]ledger.Entry{}, unread: map[string]bool{},
		comparisons: rate.NewLimiter(rate.Every(comparisonEvery), mostComparisons),
	}
}

// The comparisons with Azure that are asked for. Azure allows twelve reads of a
// machine a minute after 36 at once; half of that is for updates.
const (
	comparisonEvery = 10 * time.Second
	mostComparisons = 12
)

// compareAgain asks for Azure to be read, unless that was asked too often.
func (st *state) compareAgain(now time.Time) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.comparisons.AllowN(now, 1) {
		return false
	}
	st.refresh = true
	return true
}

// asked notes that something is needed that the group has not got. mu is held.
func (st *state) asked(now time.Time) {
	st.lastAsked = now
	if st.firstAsked.IsZero() {
		st.firstAsked = now
	}
}

// settling tells how long to wait for a burst of needs to end. An update that
// goes out takes them all up.
func (st *state) settling(now time.Time) time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.firstAsked.IsZero() {
		return 0
	}
	wait := min(st.lastAsked.Add(quiet).Sub(now), st.firstAsked.Add(mostQuiet).Sub(now))
	if wait <= 0 {
		st.firstAsked = time.Time{}
	}
	return max(wait, 0)
}

// resting tells how long Azure is to be left alone yet about this group.
func (st *state) resting(now time.Time) time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.notBefore.Sub(now)
}

// known tells whether Azure was asked and need not be asked again.
func (st *state) known() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.current != nil && !st.refresh
}

// idle tells that no pod needs anything and nothing of ours is there.
func (st *state) idle() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.needs) == 0 && len(st.ledger) == 0
}

// plan asks the planner, and marks what is about to leave in the same breath, so
// that no need slips in between. extra are identities to have without any pod.
func (st *state) plan(extra extras, immutable map[string]bool, grace time.Duration, now time.Time) assignment.GroupPlan {
	st.mu.Lock()
	defer st.mu.Unlock()
	in := assignment.Group{
		Desired: assignment.Set{}, Early: assignment.Set{}, Current: st.current, Ledger: assignment.Set{}, Stale: st.stale,
		Immutable:   func(key string) bool { return st.immutable(key, immutable) },
		Tenants:     func(key string) []string { return namespaces(st.identities(key), extra.names[key]) },
		Quarantined: map[string]time.Time{}, UnneededSince: st.unneeded, Grace: grace, Now: now,
		Unverified: map[string]bool{}, Patient: map[string]bool{},
	}
	st.early = extra.names
	maps.Copy(in.Desired, extra.set)
	maps.Copy(in.Early, extra.set)
	for key, n := range st.needs {
		if st.demand(key).wanted {
			in.Desired[key] = n.spelling
			delete(in.Early, key)
		}
	}
	st.unverified(in)
	st.finishRenewals(in)
	spellings := spellingsOf(in.Desired)
	for key, entry := range st.ledger {
		if (!!entry.Owned() || !st.current.Has(key)) && !respelledIn(in.Desired, spellings, key) {
			in.Ledger[key] = entry.ResourceID
		}
	}
	for key, q := range st.quarantined {
		in.Quarantined[key] = q.retry
	}
	plan := assignment.ForGroup(in)
	st.unneeded = plan.UnneededSince
	for _, id := range plan.Detach {
		st.leaving[ledger.Key(id)] = true
	}
	return plan
}

// unverified finds what is desired, on the group, and not podid's to assign as far as is known. mu is
// held.
func (st *state) unverified(in assignment.Group) {
	for key := range in.Desired {
		if !st.current.Has(key) || st.vouched(key) || st.stale[key] {
			continue
		}
		d := st.demand(key)
		in.Unverified[key] = d.verify || !d.wanted
		in.Patient[key] = !d.waiting
	}
}

// owned leaves in the set what is ours.
func (st *state) owned(set assignment.Set) {
	st.mu.Lock()
	defer st.mu.Unlock()
	maps.DeleteFunc(set, func(key, _ string) bool {
		_, ours := st.ledger[key]
		return !ours
	})
}

// stay takes back what plan marked as leaving, and tells whether there was any:
// pods that came meanwhile have been told that it is not there.
func (st *state) stay() (any bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	any = len(st.leaving) > 0
	clear(st.leaving)
	return any
}

// unrecorded tells whether any of these identities is not in the ledger.
func (st *state) unrecorded(ids ...[]string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, id := range slices.Concat(ids...) {
		if _, ok := st.ledger[ledger.Key(id)]; !ok {
			return true
		}
	}
	return false
}

// read takes what Azure says at that time. extra are identities that the group is to
// have without any pod.
func (st *state) read(have compute.Identities, extra assignment.Set, now time.Time) {
	have = have.Respelled(st.spellings(extra))
	current, clients := assignment.Set{}, clientIDs(have)
	for _, id := range have.UserAssigned {
		current[ledger.Key(id)] = id
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.arrive(current, have.Updating, now)
	st.current, st.refresh = current, false
	st.rememberClients(clients)
	clear(st.unread)
	if st.trouble.Reason == assignment.ReasonGroupMissing {
		st.trouble = assignment.State{} // other troubles end with an update that goes well
	}
	st.compare(have)
	st.strike(have.Updating)
}

// spellings returns the resource IDs that this group is known to need or to have by
// podid's doing.
func (st *state) spellings(extra assignment.Set) []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	ids := slices.Collect(maps.Values(extra))
	for _, n := range st.needs {
		ids = append(ids, n.spelling)
	}
	for _, entry := range st.ledger {
		ids = append(ids, entry.ResourceID)
	}
	return ids
}

// clientIDs are the client IDs that Azure lists, by canonical resource ID.
func clientIDs(have compute.Identities) map[string]string {
	clients := map[string]string{}
	for id, client := range have.ClientIDs {
		if client != "" {
			clients[ledger.Key(id)] = canonical(client)
		}
	}
	return clients
}

// learn records the client IDs of what was attached, between two requests of an update: what is
// there and what is podid's is not looked at, because the update is not over.
func (st *state) learn(have compute.Identities, extra assignment.Set) {
	clients := clientIDs(have.Respelled(st.spellings(extra)))
	st.mu.Lock()
	defer st.mu.Unlock()
	st.rememberClients(clients)
	clear(st.unread)
}

// done takes an update that Azure has carried out, and returns the identities
// whose quarantine it ended.
func (st *state) done(req assignment.Request) (lifted []types.NamespacedName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.failures, st.notBefore, st.trouble, st.complaint = 0, time.Time{}, assignment.State{}, ""
	st.arriving, st.arrivingSince = nil, time.Time{}
	clear(st.blockers)
	st.keepClaims(req)
	st.current = maps.Clone(st.current)
	for _, id := range req.Attach {
		key := ledger.Key(id)
		if !st.vouched(key) && st.current.Has(key) {
			entry := st.newEntry(id)
			entry.Foreign = true // it was there, and Azure lets podid assign it
			st.ledger[key] = entry
		}
		st.current[key], st.unread[key] = id, true
		st.renewed(key)
	}
	for _, id := range req.Detach {
		if st.stale[ledger.Key(id)] {
			delete(st.clients, ledger.Key(id)) // what comes back may be another one
		}
		delete(st.current, ledger.Key(id))
		delete(st.leaving, ledger.Key(id))
		if !st.ledger[ledger.Key(id)].Keep {
			delete(st.ledger, ledger.Key(id))
		}
		delete(st.unneeded, ledger.Key(id))
		delete(st.stale, ledger.Key(id))
	}
	for _, id := range slices.Concat(req.Attach, req.Detach) {
		if q, ok := st.quarantined[ledger.Key(id)]; ok {
			delete(st.quarantined, ledger.Key(id))
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
		delete(st.current, ledger.Key(id))
	}
}

// settled notes that there is nothing to do now, and ends the quarantine of
// identities that nobody needs and that are not ours to take away either. extra
// are those needed without any pod.
func (st *state) settled(extra assignment.Set, now time.Time) (lifted []types.NamespacedName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.firstAsked, st.failures, st.complaint, st.halves = time.Time{}, 0, "", nil
	for key, q := range st.quarantined {
		if _, ours := st.ledger[key]; ours || st.needs[key] != nil || extra.Has(key) {
			continue
		}
		lifted, q.identities = append(lifted, q.identities...), nil
		if !q.until.After(now) {
			delete(st.quarantined, key)
		}
	}
	return lifted
}

// spellingsOf counts the spellings in a set that Azure may take for one identity each.
func spellingsOf(set assignment.Set) map[string]int {
	counts := map[string]int{}
	for key := range set {
		if !ascii.Is(key) {
			counts[ascii.Loose(key)]++
		}
	}
	return counts
}

// respelledIn reports whether the set has another spelling of the identity which Azure
// may take for the same. Detaching the one would take the other away, too.
func respelledIn(set assignment.Set, counts map[string]int, key string) bool {
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
