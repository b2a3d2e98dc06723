// The model's Azure: computetest.Fake with the faults that a history asks for. It checks every
// update that MIC makes.

package model

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
)

// fault is a failure of one call.
type fault int

const (
	throttled   fault = iota // 429, Retry-After 40 s
	broken                   // 500
	conflicting              // 409
	unreachable              // no connection
	hanging                  // no response, not carried out
	hangingDone              // no response, but carried out
	lost                     // carried out, then the connection breaks
	failingLate              // accepted, but fails later and is rolled back
	slow                     // takes two minutes
	faults
)

func (f fault) String() string {
	return [...]string{
		"429", "500", "409", "no connection", "hangs", "hangs, but is carried out", "is carried out, the answer is lost",
		"is accepted and fails later", "takes two minutes",
	}[f]
}

// fate is how Azure treats an identity or a group until it is changed.
type fate int

const (
	fine      fate = iota
	forbidden      // podid has no permission to assign it, or to update the group; the error names it
	cursed         // refused with an error that does not name the identity
	fates
)

func (f fate) String() string { return [...]string{"fine", "forbidden", "refused without a name"}[f] }

// azure is the Azure of all MICs of a history.
type azure struct {
	fake     *computetest.Fake
	fail     func(what, format string, args ...any)
	takes    time.Duration // how long an update takes
	shout    bool          // spell resource IDs differently than MIC does
	strict   bool          // refuse all updates of a group that lists a deleted identity
	staleIDs bool          // show the old IDs of deleted identities
	ledger   func(compute.Group) map[string]bool
	grace    time.Duration
	isFixed  func(key string) bool // immutable
	readLag  time.Duration
	late     time.Duration // how long a pod may wait for its turn because of slow writes
	learned  func()

	mu        sync.Mutex
	patches   []fault
	reads     []fault
	fates     map[string]fate
	forbidden map[compute.Group]bool
	mine      map[compute.Group]map[string]bool // attached by MIC
	foreign   map[compute.Group]map[string]bool // attached by another client
	bookless  map[compute.Group]bool            // the ledger was deleted or damaged: what MIC attached is unknown
	running   map[compute.Group]*operation
	flying    map[compute.Group]int
	leaving   map[slot]bool // what an update in flight detaches
	renewing  map[slot]bool // another client's identities that MIC detached, to attach them again if they exist
	chains    map[compute.Group]chain
	known     map[compute.Group]map[string]bool // what Azure has reported to MIC
	blind     map[compute.Group]bool            // the last read failed: MIC waits before it reads again
	// unsure holds what was attached by an update of a previous MIC, or by one whose response was
	// lost. It applies until this MIC has seen the group without an update in progress, because
	// another one may have begun in the meantime.
	unsure map[compute.Group]map[string]bool
	// contested holds identities for which an AzureIdentity had a wrong client ID at some time. MIC
	// attaches them until it knows that the ID is wrong, and then detaches them.
	contested map[string]bool
	wanted    map[slot]*spell
	taken     map[slot]time.Time // what MIC has detached, and when
	// ill reports whether a call failed with a transient error, refusing whether one failed because
	// of an identity.
	ill, refusing bool
	updates       int
	reading       int
}

// operation is an update in progress on Azure.
type operation struct {
	attach, detach map[string]bool
	began, until   time.Time
}

// chain is a series of calls about a group without a pause between them: one pass of MIC.
type chain struct{ began, ended time.Time }

// slot is an identity on a group.
type slot struct {
	group compute.Group
	key   string
}

// spell records since when MIC can know that something is needed, or until when it was needed.
type spell struct {
	needed       bool
	since, until time.Time
	// known is like until, but only for needs that lasted. MIC may miss a need that appears and
	// disappears at the same moment.
	known time.Time
}

func newAzure() *azure {
	return &azure{
		fake: computetest.NewFake(), fates: map[string]fate{}, forbidden: map[compute.Group]bool{},
		mine: map[compute.Group]map[string]bool{}, foreign: map[compute.Group]map[string]bool{},
		running: map[compute.Group]*operation{}, flying: map[compute.Group]int{}, chains: map[compute.Group]chain{},
		known: map[compute.Group]map[string]bool{}, wanted: map[slot]*spell{}, bookless: map[compute.Group]bool{}, leaving: map[slot]bool{}, renewing: map[slot]bool{}, blind: map[compute.Group]bool{}, taken: map[slot]time.Time{},
		unsure: map[compute.Group]map[string]bool{}, contested: map[string]bool{},
	}
}

// has returns what is on the group. It returns false if the group does not exist.
func (a *azure) has(group compute.Group) (compute.Identities, bool) {
	have, err := a.fake.Get(context.Background(), group)
	return have, err == nil
}

func (a *azure) listed(group compute.Group) map[string]bool {
	have, _ := a.has(group)
	return setOf(have.UserAssigned)
}

func setOf(ids []string) map[string]bool {
	set := map[string]bool{}
	for _, id := range ids {
		set[strings.ToLower(id)] = true
	}
	return set
}

// want records what is needed according to MIC's caches.
func (a *azure) want(now map[slot]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range now {
		w := a.wanted[s]
		if w == nil {
			w = &spell{}
			a.wanted[s] = w
		}
		if !w.needed {
			w.needed, w.since = true, time.Now()
		}
	}
	for s, w := range a.wanted {
		if w.needed && !now[s] {
			w.needed, w.until = false, time.Now()
			if w.until.After(w.since) {
				w.known = w.until
			}
		}
	}
}

// restart forgets what the previous MIC knew.
func (a *azure) restart() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.known)
	clear(a.chains)
	clear(a.flying)
	clear(a.leaving)
	for group := range a.running {
		if op := a.updating(group); op != nil {
			a.unsure[group] = union(a.unsure[group], op.attach)
		}
	}
}

// updating returns the update in progress on the group, or nil. The caller must hold mu.
func (a *azure) updating(group compute.Group) *operation {
	op := a.running[group]
	if op != nil && !time.Now().Before(op.until) {
		delete(a.running, group)
		return nil
	}
	return op
}

// unusable returns why the machines of the group lack an identity although MIC could know that. It
// returns "" if they have it.
func (a *azure) unusable(s slot) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	long := time.Now().Add(-a.late)
	if op := a.updating(s.group); op != nil && op.attach[s.key] && op.began.Before(long) && !a.bookless[s.group] {
		return "the update that attaches it is not over"
	}
	if at, taken := a.taken[s]; taken && at.Before(long) {
		return "MIC has taken it away"
	}
	return ""
}

// enter begins a call, and returns when its chain began. The caller must hold mu.
func (a *azure) enter(group compute.Group) time.Time {
	c, now := a.chains[group], time.Now()
	if !c.ended.Equal(now) {
		c.began = now
	}
	c.ended = time.Time{}
	a.chains[group] = c
	return c.began
}

func (a *azure) leave(group compute.Group) {
	c := a.chains[group]
	c.ended = time.Now()
	a.chains[group] = c
}

func pop(list *[]fault) (fault, bool) {
	if len(*list) == 0 {
		return 0, false
	}
	f := (*list)[0]
	*list = (*list)[1:]
	return f, true
}

// Get implements attachment.Cloud.
func (a *azure) Get(ctx context.Context, group compute.Group) (compute.Identities, error) {
	a.mu.Lock()
	a.enter(group)
	fault, bad := pop(&a.reads)
	a.reading++
	a.ill = a.ill || bad
	a.blind[group] = bad
	a.mu.Unlock()
	defer a.learned()
	sleep(ctx, a.readLag)
	if bad {
		if fault == hanging || fault == hangingDone {
			<-ctx.Done()
		}
		defer func() { a.mu.Lock(); a.leave(group); a.mu.Unlock() }()
		return compute.Identities{}, a.answer(fault, group, nil)
	}
	have, err := a.fake.Get(ctx, group)
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.leave(group)
	if err == nil {
		if have.Updating = a.updating(group) != nil; !have.Updating {
			delete(a.unsure, group)
		}
		a.known[group] = setOf(have.UserAssigned)
		if a.shout {
			have = shouted(have)
		}
	} else {
		delete(a.known, group)
	}
	return have, err
}

// answer returns ARM's response to a fault.
func (a *azure) answer(f fault, group compute.Group, requested []string) error {
	switch f {
	case throttled:
		return computetest.Refusal(group, http.StatusTooManyRequests, "TooManyRequests", "slow down", requested, 40*time.Second)
	case broken, slow:
		return computetest.Refusal(group, http.StatusInternalServerError, "InternalError", "sorry", requested, 0)
	case conflicting:
		return computetest.Refusal(group, http.StatusConflict, "Conflict", "somebody else is at it", requested, 0)
	case failingLate:
		return computetest.Refusal(group, http.StatusOK, "VMExtensionProvisioningError", "a machine is ill", requested, 0)
	default:
		return errors.New("cannot reach Azure")
	}
}

// Patch implements attachment.Cloud.
func (a *azure) Patch(ctx context.Context, group compute.Group, attach, detach []string) error {
	fault, bad := a.begin(group, attach, detach)
	err := a.patch(ctx, group, attach, detach, fault, bad)
	a.end(group, attach, detach, err)
	a.learned()
	return err
}

// shouted spells resource IDs in another letter case, as Azure sometimes does.
func shouted(have compute.Identities) compute.Identities {
	loud := func(id string) string { return strings.Replace(id, "/resourceGroups/ids/", "/resourcegroups/IDS/", 1) }
	out := have
	out.UserAssigned, out.Orphaned = nil, nil
	out.ClientIDs, out.PrincipalIDs = map[string]string{}, map[string]string{}
	for _, id := range have.UserAssigned {
		out.UserAssigned = append(out.UserAssigned, loud(id))
		out.ClientIDs[loud(id)], out.PrincipalIDs[loud(id)] = have.ClientIDs[id], have.PrincipalIDs[id]
	}
	for _, id := range have.Orphaned {
		out.Orphaned = append(out.Orphaned, loud(id))
	}
	return out
}
