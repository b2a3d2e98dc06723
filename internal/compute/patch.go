package compute

// Patch: one change of a node group's identities, from the read in front to the end of Azure's
// operation.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// preconditionTries is how often a PATCH starts over because the group changed between its read and
// its write.
const preconditionTries = 3

// Patch attaches and detaches user-assigned identities and returns when Azure has done it. What
// neither list names stays, and so does the group's system-assigned identity. An identity to attach
// that is there already is named in the write, too: Azure refuses it where podid may not assign it.
// Nothing is written when there is nothing to name.
//
// It costs a read, a write, a poll a second and the read that ends the operation. The read in front
// is the caller's own where that was a moment ago. It cannot be spared: the PATCH has to state the
// "type", ARM takes it at its word, and a stale answer would strip the group of its system-assigned
// identity, or of everything that another writer attached. For the same reason the write is tied to
// the ETag of that read, and the two start over when it has changed. Once the answer to a write was
// lost, the group is followed until no update of it is in progress, before that is called done or
// anything is written again.
//
// ctx bounds the whole; giving up does not stop the operation in Azure, which makes the next Patch
// see IsConflict for a while.
func (c *Client) Patch(ctx context.Context, group Group, attach, detach []string) error {
	if err := checkSize(group, attach, detach); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	var sent writeOutcome
	var first []string // what is affirmed: later looks also show what was attached by a write whose answer was lost
	for try := 1; ; try++ {
		have, cached := c.recent.take(group, time.Now())
		change := plan(have.Identities, attach, detach)
		if try > 1 || !cached || change.empty() {
			var err error
			if have, err = c.look(ctx, group, &sent); err != nil {
				return sent.mark(err)
			}
			c.recent.take(group, time.Now())
			change = plan(have.Identities, attach, detach)
		}
		if try == 1 {
			first = change.affirm
		}
		change.affirm = slices.DeleteFunc(change.affirm, func(id string) bool { return indexFold(first, id) < 0 })
		if change.empty() {
			return nil
		}
		if try == preconditionTries && !change.wipes() {
			// A group that changes all the time (a scale set while it scales) would never let us
			// in. Without the map's absence there is nothing of others to lose but a
			// system-assigned identity enabled within these milliseconds.
			have.etag = ""
		}
		err := c.patch(ctx, group, change, have.etag, &sent)
		switch {
		case err == nil:
			return nil
		case try < preconditionTries && sent.retryable(err):
		case sent.lost && c.applied(ctx, group, attach, detach, first, &sent):
			return nil
		default:
			return sent.mark(err)
		}
	}
}

// look reads the group. Once a write's answer was lost, the update that Azure is at may be that
// one, and what the group shows its goal or what it had before: then it waits until the update is
// over. (Before that, an update is somebody else's, and what the group shows was there without us.)
func (c *Client) look(ctx context.Context, group Group, sent *writeOutcome) (snapshot, error) {
	if sent.lost {
		return c.follow(ctx, group)
	}
	return c.get(ctx, group)
}

// applied reports whether writes whose answers were lost did what they should. Of what they
// affirmed, the group does not show it.
func (c *Client) applied(ctx context.Context, group Group, attach, detach, affirmed []string, sent *writeOutcome) bool {
	have, err := c.look(ctx, group, sent)
	return err == nil && len(affirmed) == 0 && plan(have.Identities, attach, detach).done()
}

// patch is one write with its long-running operation, measured.
func (c *Client) patch(ctx context.Context, group Group, change change, etag string, sent *writeOutcome) error {
	write := c.patchVM
	if group.Kind == VMSS {
		write = c.patchVMSS
	}
	start := time.Now()
	after, err := write(ctx, group, change, etag, sent)
	err = c.refuse(writes, group, change.named(), err)
	if err == nil {
		err = verify(group, change, after.Identities)
	}
	if err == nil {
		c.recent.put(group, after, true, time.Now())
	}
	c.observe(operationOf(group, PatchVM, PatchVMSS), start, err)
	return err
}

// checkSize refuses what Azure would not take, before anything is sent.
func checkSize(group Group, attach, detach []string) error {
	if n := len(attach) + len(detach); n > MaxPerPatch {
		return fmt.Errorf("patch identities of %s: %d identities in one request, Azure takes %d", group, n, MaxPerPatch)
	}
	return nil
}

// verify compares what ARM shows after a successful operation with what was asked: another writer
// may have come right behind us. "Attached" is only said of what is really there.
func verify(group Group, change change, after Identities) error {
	for _, id := range slices.Concat(change.attach, change.affirm) {
		if !after.Has(id) {
			return overtaken(group, "attached "+id+", but it is not there")
		}
	}
	for _, id := range change.detach {
		if after.Has(id) {
			return overtaken(group, "detached "+id+", but it is still there")
		}
	}
	return nil
}

// overtaken is the conflict of an operation that went well and left no trace.
func overtaken(group Group, what string) error {
	return &refusal{
		act: writes, group: group, status: http.StatusConflict, code: "Overtaken",
		message: "Azure says it " + what + ": something else changed the same resource",
	}
}

// changedMeanwhile reports that the ETag no longer matched.
func changedMeanwhile(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == http.StatusPreconditionFailed
}
