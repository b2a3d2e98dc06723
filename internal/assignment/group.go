// The plan for a node group: from what its pods need to the request to Azure.

package assignment

import (
	"slices"
	"time"
)

// MaxPerRequest is how many identities Azure accepts in one update of a VM or a scale set.
const MaxPerRequest = 150

// Set is a set of identities. It maps the canonical resource ID (identity.ResourceID.Key) to the
// spelling to use in a request.
type Set map[string]string

// Has reports whether the identity of that canonical resource ID is in the set.
func (s Set) Has(key string) bool { _, ok := s[key]; return ok }

// Group is the input of the plan for one node group. All keys are canonical resource IDs. ForGroup
// does not change the maps.
type Group struct {
	// Desired are the identities that pods on the group need now.
	Desired Set
	// Early are those of Desired that no pod waits for yet. If not all fit into one request, they come
	// last.
	Early Set
	// Tenants returns the tenants that need one of Desired: the namespaces of the AzureIdentity
	// objects. If not all identities fit into one request, each tenant gets some. It is called only
	// then. If it is nil, all count as one tenant.
	Tenants func(key string) []string
	// Current are the identities that Azure lists for the group, in Azure's spelling.
	Current Set
	// Stale are identities that the group lists but that no longer work: the identity behind them was
	// deleted or recreated. Azure does not re-attach an identity that it already lists, so they must
	// be detached first. Only identities that podid may detach belong here.
	Stale map[string]bool
	// Unverified are those of Current for which Azure has not confirmed yet that podid may assign
	// them. A needed one is attached as if the group did not have it.
	Unverified map[string]bool
	// Patient are those of Unverified that no pod waits for. They are added to the next request that
	// is made anyway.
	Patient map[string]bool
	// Ledger are the identities that podid attached, or was about to attach: the only ones that may
	// ever be detached.
	Ledger Set
	// Immutable reports whether an identity must stay attached, no matter who attached it.
	Immutable func(key string) bool
	// Quarantined are identities that Azure refused, and when to try them again.
	Quarantined map[string]time.Time
	// UnneededSince maps identities in the ledger to the time since when no pod has needed them. It is
	// the value that the previous plan returned.
	UnneededSince map[string]time.Time
	// Grace is how long an identity stays attached after the last pod stopped needing it.
	Grace time.Duration
	// Now is the time of the plan.
	Now time.Time
}

// GroupPlan is the request to make of Azure and the state to keep for the next plan.
type GroupPlan struct {
	// Attach and Detach go into one request. Together they are at most MaxPerRequest, and identities
	// to attach come first. They are spelled for the request and in a stable order.
	Attach, Detach []string
	// Probation are quarantined identities that are due for a retry. They go into requests of their
	// own, so that they cannot block the others again.
	Probation []string
	// More reports whether something did not fit into the request: plan again when it is done.
	More bool
	// Forget are the ledger entries (keys) to drop: the group does not have them and no pod needs
	// them.
	Forget []string
	// UnneededSince is the value to pass to the next plan.
	UnneededSince map[string]time.Time
	// Next is when to plan again if nothing happens, zero for never.
	Next time.Time
}

// Idle reports whether there is nothing to request from Azure now.
func (p GroupPlan) Idle() bool { return len(p.Attach)+len(p.Detach)+len(p.Probation) == 0 }

// ForGroup compares what the pods of a node group need with what it has.
//
// It never detaches an identity that is needed, immutable or not in the ledger. The exception is
// one that is needed and stale: it is detached, and the next plan attaches it again.
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

// missing returns the needed identities that the group does not have or that are not verified.
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

// stale returns the needed identities that have to be detached and attached again.
func (g Group) stale(plan *GroupPlan) (detach []string) {
	for key := range g.Stale {
		if !g.Desired.Has(key) || !g.Current.Has(key) || g.Immutable(key) {
			continue
		}
		if retry := g.Quarantined[key]; retry.After(g.Now) {
			plan.wake(retry) // Azure refused to detach it
			continue
		}
		detach = append(detach, key)
	}
	return detach
}

// unneeded returns the identities to detach. It records those that are not due yet and those to
// forget.
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
			due = retry // Azure refused to detach it
		}
		if due.After(g.Now) {
			plan.wake(due)
			continue
		}
		detach = append(detach, key)
	}
	return detach
}

// wake records a time to plan again. The earliest wins.
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

// first returns n of the keys in a stable order, those that pods wait for first. If there are more
// than n, the tenants take turns.
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
