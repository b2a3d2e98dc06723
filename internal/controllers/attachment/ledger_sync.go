// When the ledger is read and written.

package attachment

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/wakeup"
	"github.com/podid-io/podid/internal/ledger"
)

// load reads the group's ledger unless that has been done.
func (c *Controller) load(ctx context.Context, group compute.Group, st *state) error {
	if st.loaded() {
		return nil
	}
	stored, all, err := c.ledger.Take(ctx, group, c.groups.now())
	if err != nil {
		return err
	}
	c.wakeUnpopulated(ctx, all)
	if stored.Damaged != nil {
		// Pods must not wait until the ledger is repaired. Entries that cannot be read are not
		// podid's, so their identities are never detached.
		logr.FromContextOrDiscard(ctx).Error(stored.Damaged,
			"ledger is damaged, replacing it; the identities on its damaged pages stay on the node group")
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ledger.load(stored)
	return nil
}

// wakeUnpopulated wakes those groups that have no nodes: if their nodes went while no MIC ran,
// there is no event to wake them.
func (c *Controller) wakeUnpopulated(ctx context.Context, groups []compute.Group) {
	for _, group := range groups {
		if populated, err := c.populated(ctx, group); err == nil && !populated {
			c.groups.wake.Add(group)
		}
	}
}

// record writes what an update is about to attach, before Azure is asked, and removes what is
// neither attached nor needed.
func (c *Controller) record(ctx context.Context, group compute.Group, st *state, plan assignment.GroupPlan) error {
	if len(plan.Detach) > 0 {
		if err := c.confirmUnchanged(ctx, group, st); err != nil {
			return err
		}
	}
	st.mu.Lock()
	st.ledger.record(plan, st.azure.current, &st.demand)
	st.mu.Unlock()
	err := c.write(ctx, group, st)
	if err != nil {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.ledger.revert()
	}
	return err
}

// confirmUnchanged fails if the ledger is not as it was last read or written. It is called before
// anything is detached: an entry may have been removed by hand so that the identity stays, or by a
// former leader's last write.
func (c *Controller) confirmUnchanged(ctx context.Context, group compute.Group, st *state) error {
	if err := c.resync(ctx, group, st); err != nil {
		return err
	}
	now, err := c.ledger.Store.Load(ctx, group)
	if err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if now.SameVersion(st.ledger.stored) {
		return nil
	}
	st.ledger.unload()
	return changedError(group)
}

func changedError(group compute.Group) error {
	return fmt.Errorf("ledger of %s was changed by another writer and will be read again", group)
}

// save writes the outcome of an update, also when the program is about to stop. The entries of a
// refused update must not stay: they would make identities podid's that another writer attaches.
func (c *Controller) save(ctx context.Context, group compute.Group, st *state) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	return c.write(ctx, group, st)
}

// write saves the ledger if it differs from what is stored.
func (c *Controller) write(ctx context.Context, group compute.Group, st *state) error {
	if err := c.resync(ctx, group, st); err != nil {
		return err
	}
	st.mu.Lock()
	entries, stored := maps.Clone(st.ledger.entries), st.ledger.stored
	st.mu.Unlock()
	if maps.Equal(entries, stored.Entries) {
		return nil
	}
	stored, err := stored.Save(ctx, c.ledger.Store.Writer, entries)
	overtaken, pageRefused := ledger.IsOvertaken(err), ledger.IsPageRefused(err)
	if !overtaken && !pageRefused {
		c.health.record(err, c.groups.now())
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if overtaken {
		st.ledger.unload() // what the other writer stored counts
		return err
	}
	st.ledger.stored = stored
	if err != nil && !pageRefused {
		st.ledger.attempted = entries
	}
	return err
}

// resync finds out, after a write that failed, whether it was carried out anyway.
func (c *Controller) resync(ctx context.Context, group compute.Group, st *state) error {
	if !with(st, func() bool { return st.ledger.attempted != nil }) {
		return nil
	}
	record, err := c.ledger.Store.Load(ctx, group)
	if err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	attempted := st.ledger.attempted
	st.ledger.attempted = nil
	if !within(record.Entries, st.ledger.stored.Entries, attempted) {
		st.ledger.unload()
		return changedError(group)
	}
	st.ledger.stored = record
	return nil
}

// within reports whether every entry is that of one of two states, and none is missing that both
// have: of a write of several pages, some may have been carried out.
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

// health is whether the ledger can be written. If not, nothing is attached.
type health struct {
	mu   sync.Mutex
	last error
	at   time.Time
}

// failureTTL is how long a failure counts: what keeps failing is retried sooner.
const failureTTL = 4 * wakeup.RetryMax

func (h *health) record(err error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.at = err, now
}

// Healthy returns why the ledger could not be written the last time. It returns nil if it could, or
// if nothing has had to be written since.
func (c *Controller) Healthy() error {
	now := c.groups.now()
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	if now.Sub(c.health.at) >= failureTTL {
		return nil
	}
	return c.health.last
}
