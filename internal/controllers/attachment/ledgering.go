// When the ledger is read and written.

package attachment

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
)

// load reads the group's ledger, once.
func (r *Reconciler) load(ctx context.Context, group compute.Group, st *state) error {
	if loaded, _ := st.known(); loaded {
		return nil
	}
	entries, err := r.ledger.Load(ctx, group)
	damaged, isDamaged := errors.AsType[*damagedError](err)
	switch {
	case isDamaged:
		// Pods must not wait for somebody to repair it. Nothing that cannot
		// be read is ours, so nothing is taken away that should not be.
		logr.FromContextOrDiscard(ctx).Error(damaged, "ledger is written anew; the identities that it listed stay on the node group for good")
		entries = map[string]Entry{}
	case err != nil:
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ledger, st.saved = entries, maps.Clone(entries)
	return nil
}

// record writes down what an update is about to attach, before Azure is asked,
// and strikes out what is neither there nor needed.
func (r *Reconciler) record(ctx context.Context, group compute.Group, st *state, members members, plan assignment.GroupPlan) error {
	st.mu.Lock()
	for _, key := range plan.Forget {
		delete(st.ledger, key)
	}
	for _, id := range slices.Concat(plan.Attach, plan.Probation) {
		if _, ok := st.ledger[keyOf(id)]; !ok {
			st.ledger[keyOf(id)] = Entry{ResourceID: id}
		}
	}
	for key, entry := range st.ledger {
		if clientID := members.clients[key]; clientID != "" {
			entry.ClientID = clientID
			st.ledger[key] = entry
		}
	}
	st.mu.Unlock()
	return r.write(ctx, group, st)
}

// save writes down what an update changed. It does so also when the program is
// about to stop: the sooner the ledger is right the better, although an entry
// too many does no harm.
func (r *Reconciler) save(ctx context.Context, group compute.Group, st *state) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	return r.write(ctx, group, st)
}

// write saves the ledger if it differs from what was saved last.
func (r *Reconciler) write(ctx context.Context, group compute.Group, st *state) error {
	st.mu.Lock()
	entries, same, fresh := maps.Clone(st.ledger), maps.Equal(st.ledger, st.saved), len(st.saved) == 0
	st.mu.Unlock()
	if same {
		return nil
	}
	if err := r.ledger.Save(ctx, group, entries, fresh); err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.saved = entries
	return nil
}
