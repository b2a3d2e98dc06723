// The check of every update that MIC makes.

package model

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/compute"
)

// begin checks an update, and returns the fault to inject.
func (a *azure) begin(group compute.Group, attach, detach []string) (fault, bool) {
	listed, ledger := a.listed(group), a.ledger(group)
	have, _ := a.has(group)
	a.mu.Lock()
	defer a.mu.Unlock()
	began := a.enter(group)
	a.updates++
	a.flying[group]++
	if a.flying[group] > 1 {
		a.fail("two updates at once", "of %s", group)
	}
	if n := len(attach) + len(detach); n > compute.MaxPerPatch || n == 0 {
		a.fail("size of an update", "%d identities", n)
	}
	for _, k := range slices.Sorted(maps.Keys(union(a.present(group, listed), setOf(attach)))) {
		verified := listed[k] && !a.mine[group][k] // another client's, which Azure may not let podid assign
		if !ledger[k] && !a.bookless[group] && !verified {
			a.fail("not in the ledger", "%s on %s when it is updated", short(k), group)
		}
	}
	for _, id := range attach {
		k := strings.ToLower(id)
		w := a.wanted[slot{group, k}]
		back := a.renewing[slot{group, k}] || a.bookless[group] // whether a pod needs it or not
		if !back && (w == nil || !w.needed && w.until.Before(began.Add(-a.late))) {
			a.fail("attached, not needed", "%s to %s", short(k), group)
		}
	}
	for _, id := range detach {
		a.leaving[slot{group, strings.ToLower(id)}] = true
		a.judgeDetach(slot{group, strings.ToLower(id)}, began, setOf(have.Orphaned))
	}
	f, bad := pop(&a.patches)
	a.ill = a.ill || bad
	return f, bad
}

// present returns the identities on a group that MIC attached.
func (a *azure) present(group compute.Group, listed map[string]bool) map[string]bool {
	out := map[string]bool{}
	for k := range a.mine[group] {
		if listed[k] {
			out[k] = true
		}
	}
	return out
}

// judgeDetach checks that an identity may be detached, in a chain of calls that began at began.
func (a *azure) judgeDetach(s slot, began time.Time, orphaned map[string]bool) {
	w := a.wanted[s]
	if w == nil {
		w = &spell{}
	}
	if a.foreign[s.group][s.key] {
		a.renewing[s] = true
	}
	client, _ := a.fake.IDsOf(s.key)
	renewed := client == "" || orphaned[s.key] || a.remade(s)
	switch {
	case a.foreign[s.group][s.key] && (!renewed || !w.needed && w.until.Before(began.Add(-a.late))):
		a.fail("somebody else's was taken away", "%s from %s", short(s.key), s.group)
	case a.isFixed(s.key):
		a.fail("an immutable one was taken away", "%s from %s", short(s.key), s.group)
	case renewed, a.contested[s.key]:
	case w.needed && w.since.Before(began.Add(-a.late)):
		a.fail("what is needed was taken away", "%s from %s, needed since %s", short(s.key), s.group, clock(w.since))
	case !w.known.IsZero() && time.Since(w.known) < a.grace:
		a.fail("taken away within the grace", "%s from %s, needed until %s", short(s.key), s.group, clock(w.known))
	}
}

// remade reports whether the identity was recreated since it was attached.
func (a *azure) remade(s slot) bool {
	a.fake.KeepStaleIDs(true)
	before, _ := a.has(s.group)
	a.fake.KeepStaleIDs(false)
	now, _ := a.has(s.group)
	a.fake.KeepStaleIDs(a.staleIDs)
	for _, id := range before.UserAssigned {
		if strings.EqualFold(id, s.key) {
			return before.ClientIDs[id] != now.ClientIDs[id]
		}
	}
	return false
}
