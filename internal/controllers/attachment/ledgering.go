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
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
)

// library is the ledger as it was when the controller began: one request instead
// of one for every group. Each group takes its page out once; after that, and once
// the library has closed, the page is what the API server says.
//
// take returns a group's page; who is the first also gets all groups that have one.
type library struct {
	mu    sync.Mutex
	pages map[string]Record // nil until listed
	taken map[compute.Group]bool
	// closes is when the list is too old: all is dropped then, so that it does
	// not grow with every group that ever comes.
	closes time.Time
	closed bool
}

// libraryOpen is how long the list serves: the groups that there are come up in the
// first minutes, by their pods or by the comparison with Azure.
const libraryOpen = 5 * time.Minute

func (l *library) take(ctx context.Context, ledger Ledger, group compute.Group, now time.Time) (page Record, all []compute.Group, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pages != nil && !now.Before(l.closes) {
		l.pages, l.taken, l.closed = nil, nil, true
	}
	if l.closed || l.taken[group] {
		page, err = ledger.Load(ctx, group)
		return page, nil, err
	}
	if l.pages == nil {
		pages, groups, err := ledger.All(ctx)
		if err != nil {
			return Record{}, nil, err
		}
		all = groups
		l.pages, l.taken, l.closes = pages, map[compute.Group]bool{}, now.Add(libraryOpen)
	}
	page, found := l.pages[ledger.nameOf(group)]
	if !found || page.Group == (compute.Group{}) { // there is none, or its pages do not say whose they are
		page.Group, page.Namespace, page.Name = group, ledger.Namespace, ledger.nameOf(group)
	}
	delete(l.pages, ledger.nameOf(group))
	l.taken[group] = true
	return page, all, nil
}

// load reads the group's ledger, once.
func (r *Reconciler) load(ctx context.Context, group compute.Group, st *state) error {
	if st.loaded() {
		return nil
	}
	page, all, err := r.library.take(ctx, r.ledger, group, r.now())
	if err != nil {
		return err
	}
	r.wakeDeserted(ctx, all)
	if page.Damaged != nil {
		// Pods must not wait for somebody to repair it. Nothing that cannot
		// be read is ours, so nothing is taken away that should not be.
		logr.FromContextOrDiscard(ctx).Error(page.Damaged, "ledger is written anew; the identities that its damaged pages listed stay on the node group for good")
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ledger, st.pages, st.attempted = map[string]Entry{}, page.pages, nil
	maps.Copy(st.ledger, page.Entries)
	st.saved = maps.Clone(st.ledger)
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
		if entry, ok := st.ledger[keyOf(id)]; !ok || entry.others() {
			entry.ResourceID, entry.Keep, entry.Renewing = cmp.Or(entry.ResourceID, id), true, true
			st.claim(keyOf(id), entry)
		}
	}
	for key, entry := range st.ledger {
		if n := st.needs[key]; n != nil && recordedClientID(n.clientID) != "" {
			entry.ClientID = n.clientID
			st.ledger[key] = entry
		}
	}
}

// enterAttached writes an entry for an identity that is about to be attached. mu is held.
func (st *state) enterAttached(id string) {
	key := keyOf(id)
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
	page, err := r.ledger.Load(ctx, group)
	if err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if samePages(page.pages, st.pages) {
		return nil
	}
	st.ledger, st.saved = nil, nil
	return fmt.Errorf("ledger of %s was changed by somebody else; nothing is taken away before it has been read anew", group)
}

// revert takes the ledger back to what is written. What could not be written has
// not been asked for either: till the next try, somebody else may put it there.
func (st *state) revert() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ledger = maps.Clone(st.saved) // nil when it has to be loaded anew
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
	entries, same, pages := maps.Clone(st.ledger), maps.Equal(st.ledger, st.saved), st.pages
	st.mu.Unlock()
	if same {
		return nil
	}
	pages, err := r.ledger.book(group).save(ctx, r.ledger.Writer, pages, entries)
	overtaken := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
	if !overtaken && !isRefusedPage(err) {
		r.health.note(err, r.now())
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if overtaken {
		// Another leader wrote it, or a hand: what it says now counts.
		st.ledger, st.saved = nil, nil
		return err
	}
	st.saved, st.pages = entriesOf(pages), pages
	if err != nil && !isRefusedPage(err) {
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
	if !within(record.Entries, st.saved, attempted) {
		st.ledger, st.saved = nil, nil
		return fmt.Errorf("ledger of %s was changed by another writer and will be read again", group)
	}
	st.saved, st.pages = entriesOf(record.pages), record.pages
	return nil
}

// within reports whether every entry is that of one of two states, and none is missing that both
// have: of a write of several pages some may be carried out.
func within(entries, before, after map[string]Entry) bool {
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
	return maps.Equal(st.ledger, st.saved)
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
