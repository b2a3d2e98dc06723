// A node group's ledger in memory.

package attachment

import (
	"cmp"
	"maps"
	"slices"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/ledger"
)

// groupLedger is what podid attached to a node group, by canonical resource ID.
type groupLedger struct {
	// entries are nil until loaded; stored is what was last written.
	entries map[string]ledger.Entry
	stored  ledger.Record
	// attempted is what the last write would have stored, nil unless its outcome is unknown.
	attempted map[string]ledger.Entry
	// pending are the entries that the update under way changed, as they were before; zero for new
	// ones.
	pending map[string]ledger.Entry
}

func (l *groupLedger) has(key string) bool {
	_, ok := l.entries[key]
	return ok
}

func (l *groupLedger) load(stored ledger.Record) {
	l.entries, l.stored, l.attempted = maps.Clone(stored.Entries), stored, nil
}

// unload forgets everything, so that the ledger is read again.
func (l *groupLedger) unload() { l.entries, l.stored = nil, ledger.Record{} }

// revert restores what is stored. What could not be written has not been asked of Azure either:
// until the next try, another writer may attach it.
func (l *groupLedger) revert() {
	l.entries = maps.Clone(l.stored.Entries) // nil if it has to be loaded again
	clear(l.pending)
}

// written reports whether everything is stored.
func (l *groupLedger) written() bool { return maps.Equal(l.entries, l.stored.Entries) }

// set changes an entry for the update that is about to begin; rollback undoes it.
func (l *groupLedger) set(key string, entry ledger.Entry) {
	if before := l.entries[key]; before != entry {
		l.pending[key], l.entries[key] = before, entry
	}
}

// commit keeps the entries of a request that Azure carried out, or may have carried out.
func (l *groupLedger) commit(req assignment.Request) {
	for _, id := range slices.Concat(req.Attach, req.Detach) {
		delete(l.pending, ledger.Key(id))
	}
}

// rollback undoes changes for requests that were not sent or that Azure plainly refused. Another
// writer may attach such an identity later, and then it must not count as podid's.
func (l *groupLedger) rollback() {
	for key, before := range l.pending {
		switch {
		case !l.has(key): // removed meanwhile
		case before == ledger.Entry{}:
			delete(l.entries, key)
		default:
			l.entries[key] = before
		}
	}
	clear(l.pending)
}

// record changes the entries as a plan requires.
func (l *groupLedger) record(plan assignment.GroupPlan, current assignment.Set, d *demand) {
	for _, key := range plan.Forget {
		delete(l.entries, key)
	}
	for _, id := range slices.Concat(plan.Attach, plan.Probation) {
		l.recordAttach(id, current.Has(ledger.Key(id)), d)
	}
	for _, id := range plan.Detach {
		if entry, ok := l.entries[ledger.Key(id)]; !ok || !entry.Owned() {
			entry.ResourceID, entry.Keep, entry.Renewing = cmp.Or(entry.ResourceID, id), true, true
			l.set(ledger.Key(id), entry)
		}
	}
	for key, entry := range l.entries {
		if n := d.needs[key]; n != nil && ledger.ClientIDFor(n.clientID) != "" {
			entry.ClientID = n.clientID
			l.entries[key] = entry
		}
	}
}

// recordAttach writes an entry for an identity that is about to be attached.
func (l *groupLedger) recordAttach(id string, listed bool, d *demand) {
	key := ledger.Key(id)
	entry, ok := l.entries[key]
	switch {
	case !ok && listed: // another writer's; attached records that Azure accepted it
	case !ok, entry.Foreign && !entry.Keep && !listed: // in the second case its writer detached it
		l.set(key, d.entry(id))
	case entry.PrincipalID != "" && !listed:
		entry.PrincipalID = "" // the identity may have been recreated
		l.set(key, entry)
	}
}

// attached records that Azure attached an identity, or accepted it although it was listed already.
func (l *groupLedger) attached(id string, listed bool, d *demand) {
	key := ledger.Key(id)
	if listed && !l.assignable(key) {
		entry := d.entry(id)
		entry.Foreign = true
		l.entries[key] = entry
	}
	l.endRenewal(key)
}

// detached records that Azure detached an identity.
func (l *groupLedger) detached(key string) {
	if !l.entries[key].Keep {
		delete(l.entries, key)
	}
}

// assignable reports whether podid may assign the identity: it attached it, or Azure accepted it in
// one of podid's updates although it was there already.
func (l *groupLedger) assignable(key string) bool {
	if l.has(key) || ascii.Is(key) {
		return l.has(key)
	}
	for other := range l.entries { // Azure may treat both spellings as one
		if ascii.Loose(other) == ascii.Loose(key) {
			return true
		}
	}
	return false
}

// unconfirmed reports whether podid's entry is of an identity that Azure has never listed and does
// not list now: the update that attaches it is under way, or failed.
func (l *groupLedger) unconfirmed(key string, current assignment.Set) bool {
	entry, ok := l.entries[key]
	return ok && entry.Owned() && entry.PrincipalID == "" && !current.Has(key)
}

// dropUnconfirmed removes entries that Azure never listed. It may be called only while no update is
// running: from then on, another writer may attach those identities. The next update of podid adds
// them again.
func (l *groupLedger) dropUnconfirmed(current assignment.Set) {
	maps.DeleteFunc(l.entries, func(key string, _ ledger.Entry) bool { return l.unconfirmed(key, current) })
}

// endRenewal records that a renewed identity is attached again, or that Azure refuses it.
func (l *groupLedger) endRenewal(key string) {
	if entry, ok := l.entries[key]; ok && entry.Renewing {
		entry.Renewing = false
		l.entries[key] = entry
	}
}
