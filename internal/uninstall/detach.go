// Detaching identities from VMs and scale sets. Only identities of a ledger are ever detached.

package uninstall

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
)

// Cloud is the part of compute.Client that detaching needs.
type Cloud interface {
	Patch(ctx context.Context, group compute.Group, attach, detach []string) error
	Pause(compute.Group, time.Time) time.Duration
}

// The retries: while another writer updates a scale set, which takes up to a minute, Azure refuses
// other updates.
const (
	attempts     = 10
	conflictWait = 15 * time.Second
	maxWait      = 5 * time.Minute
)

// settle detaches the identities of a ledger that are no longer needed, and then shortens or
// deletes the ledger. If it is interrupted in between, the next run finds the identities gone.
func (c *Cleaner) settle(ctx context.Context, l Ledger) error {
	if l.Blocked != "" || !l.changes() {
		return nil
	}
	if err := c.Guard(ctx); err != nil {
		return err
	}
	rest := l.Detach
	for chunk := range slices.Chunk(l.Detach, compute.MaxPerPatch) {
		gone, err := c.detach(ctx, l.Group, chunk)
		if err != nil {
			return err
		}
		if gone {
			c.done(Row{"forget", "NodeGroup", "", l.Group.ResourceID(), "it no longer exists on Azure"})
			return c.writeLedger(ctx, &l, nil)
		}
		for _, entry := range chunk {
			c.done(Row{"detach", "Identity", "", entry.ResourceID, "from " + l.Group.String()})
		}
		rest = rest[len(chunk):]
		if err := c.writeLedger(ctx, &l, slices.Concat(l.Keep, rest)); err != nil {
			return err
		}
	}
	if len(l.Detach) == 0 { // the ledger was empty
		return c.writeLedger(ctx, &l, nil)
	}
	return nil
}

// detach detaches identities from a group, and reports whether the group itself is gone.
func (c *Cleaner) detach(ctx context.Context, group compute.Group, entries []ledger.Entry) (gone bool, err error) {
	ids := make([]string, len(entries))
	for i, entry := range entries {
		ids[i] = entry.ResourceID
	}
	wait := c.Cloud.Pause(group, time.Time{})
	for range attempts {
		if wait > 0 {
			if err := c.Wait(ctx, min(wait, maxWait)); err != nil {
				return false, err
			}
		}
		err = c.Cloud.Patch(ctx, group, nil, ids)
		if err == nil || compute.IsNotFound(err) {
			return err != nil, nil
		}
		pause, throttled := compute.RetryAfter(err)
		switch {
		case throttled:
			wait = max(pause, time.Second)
		case compute.IsConflict(err):
			wait = conflictWait
		default:
			return false, fmt.Errorf("detach %d identities: %w", len(ids), err)
		}
	}
	return false, fmt.Errorf("detach %d identities, after %d attempts: %w", len(ids), attempts, err)
}

// writeLedger replaces the entries of a ledger. Without entries, the ledger is deleted.
func (c *Cleaner) writeLedger(ctx context.Context, l *Ledger, entries []ledger.Entry) error {
	left := map[string]ledger.Entry{}
	for _, entry := range entries {
		left[key(entry.ResourceID)] = entry
	}
	record, err := l.Record.Save(ctx, c.Client, left)
	l.Record = record
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("ledger %s/%s: %w", record.Namespace, record.Name, err)
	}
	if len(entries) == 0 {
		c.done(l.deleteRow())
	}
	return nil
}
