// When the ledger is read and written.

package attachment

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

// load reads the group's ledger, once.
func (r *Reconciler) load(ctx context.Context, group compute.Group, st *state) error {
	if st.loaded() {
		return nil
	}
	stored, all, err := r.snapshot.Take(ctx, group, r.now())
	if err != nil {
		return err
	}
	r.wakeDeserted(ctx, all)
	if stored.Damaged != nil {
		// Pods must not wait for somebody to repair it. Nothing that cannot
		// be read is ours, so nothing is taken away that should not be.
		logr.FromContextOrDiscard(ctx).Error(stored.Damaged, "ledger is written anew; the identities that its damaged pages listed stay on the node group for good")
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ledger, st.stored, st.attempted = maps.Clone(stored.Entries), stored, nil
	return nil
}

// wakeDeserted looks at those groups that have no nodes any more: whatever podid
// left there while no MIC ran, no event would tell of.
func (r *Reconciler) wakeDeserted(ctx context.Context, groups []compute.Group) {
	for _, group := range groups {
		if populated, err := r.populated(ctx, group); err == nil && !populated {
			r.groups.wake.Add(group)
		}
	}
}

func (st *state) loaded() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.ledger != nil
}

// record writes down what an update is about to attach, before Azure is asked,
// and strikes out what is neither there nor needed.
func (r *Reconciler) record(ctx context.Context, group compute.Group, st *state, plan assignment.GroupPlan) error {
	if len(plan.Detach) > 0 {
		if err := r.confirm(ctx, group, st); err != nil {
			return err
		}
	}
	st.mu.Lock()
	st.enter(plan)
	st.mu.Unlock()
	err := r.write(ctx, group, st)
	if err != nil {
		st.revert()
	}
	return err
}

// enter changes the ledger as a plan wants it. mu is held.
func (st *state) enter(plan assignment.GroupPlan) {
	for _, key := range plan.Forget {
		delete(st.ledger, key)
	}
	for _, id := range slices.Concat(plan.Attach, plan.Probation) {
		st.enterAttached(id)
	}
	for _, id := range plan.Detach {
		if entry, ok := st.ledger[ledger.Key(id)]; !ok || !entry.Owned() {
			entry.ResourceID, entry.Keep, entry.Renewing = cmp.Or(entry.ResourceID, id), true, true
			st.claim(ledger.Key(id), entry)
		}
	}
	for key, entry := range st.ledger {
		if n := st.needs[key]; n != nil && ledger.ClientIDFor(n.clientID) != "" {
			entry.ClientID = n.clientID
			st.ledger[key] = entry
		}
	}
}

// enterAttached writes an entry for an identity that is about to be attached. mu is held.
func (st *state) enterAttached(id string) {
	key := ledger.Key(id)
	entry, ok := st.ledger[key]
	listed := st.current.Has(key)
	switch {
	case !ok && listed: // it is another writer's; done records that Azure took it
	case !ok, entry.Foreign && !entry.Keep && !listed: // in the second case its writer took it away
		st.claim(key, st.newEntry(id))
	case entry.PrincipalID != "" && !listed:
		entry.PrincipalID = "" // another identity may have the name by now
		st.claim(key, entry)
	}
}

// confirm looks, before anything is taken away, whether the ledger still is as it
// was read: whoever strikes out an entry wants that identity to stay, and a leader
// that went may have written a last word.
func (r *Reconciler) confirm(ctx context.Context, group compute.Group, st *state) error {
	if err := r.resync(ctx, group, st); err != nil {
		return err
	}
	now, err := r.ledger.Load(ctx, group)
	if err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if now.SameVersion(st.stored) {
		return nil
	}
	st.ledger, st.stored = nil, ledger.Record{}
	return fmt.Errorf("ledger of %s was changed by somebody else; nothing is taken away before it has been read anew", group)
}

// revert takes the ledger back to what is written. What could not be written has
// not been asked for either: till the next try, somebody else may put it there.
func (st *state) revert() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ledger = maps.Clone(st.stored.Entries) // nil when it has to be loaded anew
	clear(st.claims)
}

// save writes down what an update changed. It does so also when the program is
// about to stop. An entry too many makes an identity ours that somebody else
// attaches, so those of a refused update must not stay.
func (r *Reconciler) save(ctx context.Context, group compute.Group, st *state) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	return r.write(ctx, group, st)
}

// write saves the ledger if it differs from what was saved last.
func (r *Reconciler) write(ctx context.Context, group compute.Group, st *state) error {
	if err := r.resync(ctx, group, st); err != nil {
		return err
	}
	st.mu.Lock()
	entries, stored := maps.Clone(st.ledger), st.stored
	st.mu.Unlock()
	if maps.Equal(entries, stored.Entries) {
		return nil
	}
	stored, err := stored.Save(ctx, r.ledger.Writer, entries)
	overtaken := ledger.IsOvertaken(err)
	if !overtaken && !ledger.IsPageRefused(err) {
		r.health.note(err, r.now())
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if overtaken {
		// Another leader wrote it, or a hand: what it says now counts.
		st.ledger, st.stored = nil, ledger.Record{}
		return err
	}
	st.stored = stored
	if err != nil && !ledger.IsPageRefused(err) {
		st.attempted = entries
	}
	return err
}

// resync finds out, after a write that failed, whether it was carried out all the same.
func (r *Reconciler) resync(ctx context.Context, group compute.Group, st *state) error {
	st.mu.Lock()
	unknown := st.attempted != nil
	st.mu.Unlock()
	if !unknown {
		return nil
	}
	record, err := r.ledger.Load(ctx, group)
	if err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	attempted := st.attempted
	st.attempted = nil
	if !within(record.Entries, st.stored.Entries, attempted) {
		st.ledger, st.stored = nil, ledger.Record{}
		return fmt.Errorf("ledger of %s was changed by another writer and will be read again", group)
	}
	st.stored = record
	return nil
}

// within reports whether every entry is that of one of two states, and none is missing that both
// have: of a write of several pages some may be carried out.
func within(entries, before, after map[string]ledger.Entry) bool {
	for key, entry := range entries {
		if entry != before[key] && entry != after[key] {
			return false
		}
	}
	for key := range before {
		_, stays := after[key]
		if _, ok := entries[key]; stays && !ok {
			return false
		}
	}
	return true
}

// written tells whether the ledger says what it should.
func (st *state) written() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return maps.Equal(st.ledger, st.stored.Entries)
}

// health tells whether the ledger can be written: without it nothing is attached.
type health struct {
	mu   sync.Mutex
	last error
	at   time.Time
}

// failureCounts is how long a failure is worth telling: what goes on failing is
// tried again sooner, and what is not has been given up.
const failureCounts = 4 * retryMost

func (h *health) note(err error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.at = err, now
}

// Healthy returns why the ledger could not be written the last time, nil when it
// could or nothing has had to be written since.
func (r *Reconciler) Healthy() error {
	now := r.now()
	r.health.mu.Lock()
	defer r.health.mu.Unlock()
	if now.Sub(r.health.at) >= failureCounts {
		return nil
	}
	return r.health.last
}
