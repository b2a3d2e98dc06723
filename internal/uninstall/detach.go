// Taking identities off VMs and scale sets. Only what a ledger says that podid
// attached is ever named to Azure.

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

// Cloud is what is needed of compute.Client.
type Cloud interface {
	Patch(ctx context.Context, group compute.Group, attach, detach []string) error
	Pause(compute.Group) time.Duration
}

// How patient to be with Azure: a scale set takes up to a minute for an update of
// somebody else, during which ours is refused.
const (
	attempts     = 10
	conflictWait = 15 * time.Second
	longestWait  = 5 * time.Minute
)

// settle detaches what a ledger is done with, and then shortens or deletes the
// ledger: cut off in between, the next run finds the identities gone.
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
			c.done(Row{"forget", "NodeGroup", "", l.Group.ResourceID(), "it is not on Azure any more"})
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
	if len(l.Detach) == 0 { // it was empty
		return c.writeLedger(ctx, &l, nil)
	}
	return nil
}

// detach takes identities off a group, and says when the group itself is gone.
func (c *Cleaner) detach(ctx context.Context, group compute.Group, entries []ledger.Entry) (gone bool, err error) {
	ids := make([]string, len(entries))
	for i, entry := range entries {
		ids[i] = entry.ResourceID
	}
	wait := c.Cloud.Pause(group)
	for range attempts {
		if wait > 0 {
			if err := c.Wait(ctx, min(wait, longestWait)); err != nil {
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

// writeLedger replaces what a ledger records; without entries it goes.
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
		c.done(Row{"delete", "ConfigMap", record.Namespace, record.Name, "the ledger of " + l.Group.String() + " is done with"})
	}
	return nil
}
