// From what the pods of a node group need to what to ask of Azure.

package assignment

import (
	"slices"
	"time"
)

// MaxPerRequest is how many identities Azure takes in one update of a VM or a
// scale set.
const MaxPerRequest = 150

// Set is a set of identities: canonical resource ID (identity.ResourceID.Key)
// to the spelling to use in a request.
type Set map[string]string

// Has reports whether the identity of that canonical resource ID is in the set.
func (s Set) Has(key string) bool { _, ok := s[key]; return ok }

// Group is what the plan for one node group starts from. All keys are canonical
// resource IDs. The maps are not changed.
type Group struct {
	// Desired are the identities that pods on the group need now.
	Desired Set
	// Early are those of Desired that no pod waits for yet: where not all fit
	// into one request, they come last.
	Early Set
	// Tenants tells who needs one of Desired: the namespaces of the AzureIdentity
	// objects. Where not all fits into one request, each gets some. Asked only
	// then; nil counts all as one.
	Tenants func(key string) []string
	// Current are those that Azure says the group has, spelled as Azure does.
	Current Set
	// Stale are identities that the group lists and that work no more: what is
	// behind them was deleted or made again. Azure attaches what it lists to
	// nobody, so they have to leave and come back. Only what we may take away
	// belongs here.
	Stale map[string]bool
	// Unverified are those of Current of which Azure has not said yet that podid may
	// assign them. A needed one is attached like one that the group has not got.
	Unverified map[string]bool
	// Patient are those of Unverified that no pod waits for: they go along with the
	// next request that is made anyway.
	Patient map[string]bool
	// Ledger are those that we attached, or were about to: the only ones that
	// may ever be detached.
	Ledger Set
	// Immutable tells of an identity that must stay, whoever attached it.
	Immutable func(key string) bool
	// Quarantined are identities that Azure refused, and when to try them again.
	Quarantined map[string]time.Time
	// UnneededSince tells of identities in the ledger since when no pod has
	// needed them: the value that the previous plan returned.
	UnneededSince map[string]time.Time
	// Grace is how long an identity stays that no pod needs.
	Grace time.Duration
	// Now is the time of the plan.
	Now time.Time
}

// GroupPlan says what to ask of Azure, and what to remember.
type GroupPlan struct {
	// Attach and Detach go into one request; together they are at most
	// MaxPerRequest, attaching first. They are spelled for the request and in
	// a stable order.
	Attach, Detach []string
	// Probation are quarantined identities whose time has come. They go into
	// requests of their own, so that they cannot hold up the others again.
	Probation []string
	// More reports that something did not fit into the request: plan again when
	// it is done.
	More bool
	// Forget are entries of the ledger (keys) to drop: the group does not have
	// them and no pod needs them.
	Forget []string
	// UnneededSince is what to hand to the next plan.
	UnneededSince map[string]time.Time
	// Next is when to plan again if nothing happens, zero for never.
	Next time.Time
}

// Idle reports that there is nothing to ask of Azure now.
func (p GroupPlan) Idle() bool { return len(p.Attach)+len(p.Detach)+len(p.Probation) == 0 }

// ForGroup compares what the pods of a node group need with what it has.
//
// It never detaches what is needed, immutable or not in the ledger, but for what
// is needed and stale: that leaves, and the next plan attaches it anew.
func ForGroup(g Group) GroupPlan {
	plan := GroupPlan{UnneededSince: map[string]time.Time{}}
	attach, probation, patient := g.missing(&plan)
	detach := append(g.stale(&plan), g.unneeded(&plan)...)

	plan.Probation = g.spell(g.Desired, g.first(probation, MaxPerRequest))
	plan.Attach = g.spell(g.Desired, g.first(attach, MaxPerRequest))
	plan.Detach = g.spell(g.Current, g.first(detach, MaxPerRequest-len(plan.Attach)))
	if n := len(plan.Attach) + len(plan.Detach); n > 0 {
		plan.Attach = append(plan.Attach, g.spell(g.Desired, g.first(patient, MaxPerRequest-n))...)
	}
	plan.More = len(plan.Attach)+len(plan.Detach)+len(plan.Probation) < len(attach)+len(detach)+len(probation)
	slices.Sort(plan.Forget)
	return plan
}

// missing returns the needed identities that the group has not got or that are not verified.
func (g Group) missing(plan *GroupPlan) (attach, probation, patient []string) {
	for key := range g.Desired {
		if g.Current.Has(key) && !g.Unverified[key] {
			continue
		}
		retry, quarantined := g.Quarantined[key]
		switch {
		case !quarantined && g.Unverified[key] && g.Patient[key]:
			patient = append(patient, key)
		case !quarantined:
			attach = append(attach, key)
		case retry.After(g.Now):
			plan.wake(retry)
		default:
			probation = append(probation, key)
		}
	}
	return attach, probation, patient
}

// stale returns the needed identities that have to leave and come back.
func (g Group) stale(plan *GroupPlan) (detach []string) {
	for key := range g.Stale {
		if !g.Desired.Has(key) || !g.Current.Has(key) || g.Immutable(key) {
			continue
		}
		if retry := g.Quarantined[key]; retry.After(g.Now) {
			plan.wake(retry) // Azure refused to let go of it
			continue
		}
		detach = append(detach, key)
	}
	return detach
}

// unneeded returns the identities to detach, and notes those that are not due
// yet and those to forget.
func (g Group) unneeded(plan *GroupPlan) (detach []string) {
	for key := range g.Ledger {
		if g.Desired.Has(key) {
			continue
		}
		if !g.Current.Has(key) {
			plan.Forget = append(plan.Forget, key)
			continue
		}
		if g.Immutable(key) {
			continue
		}
		since, seen := g.UnneededSince[key]
		if !seen || since.After(g.Now) {
			since = g.Now
		}
		plan.UnneededSince[key] = since
		due := since.Add(g.Grace)
		if retry := g.Quarantined[key]; retry.After(due) {
			due = retry // Azure refused to let go of it
		}
		if due.After(g.Now) {
			plan.wake(due)
			continue
		}
		detach = append(detach, key)
	}
	return detach
}

// wake notes a time to plan again; the earliest counts.
func (p *GroupPlan) wake(at time.Time) {
	if p.Next.IsZero() || at.Before(p.Next) {
		p.Next = at
	}
}

func (g Group) spell(as Set, keys []string) []string {
	out := make([]string, 0, len(keys))
	for _, key := range keys {
		out = append(out, as[key])
	}
	return out
}

// first returns n of the keys in a stable order, those that pods wait for in
// front. Where that is not all of them, the tenants take turns.
func (g Group) first(keys []string, n int) []string {
	var waited, early []string
	for _, key := range keys {
		if g.Early.Has(key) {
			early = append(early, key)
		} else {
			waited = append(waited, key)
		}
	}
	waited = g.share(waited, n)
	early = g.share(early, n-len(waited))
	slices.Sort(waited)
	slices.Sort(early)
	return append(waited, early...)
}

func (g Group) share(keys []string, n int) []string {
	tenants := g.Tenants
	if tenants == nil {
		tenants = func(string) []string { return nil }
	}
	if len(keys) <= n {
		return keys
	}
	return Share(keys, tenants, n)
}
