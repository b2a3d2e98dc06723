// Patch: one change of a node group's identities, from the initial read to the end of Azure's
// operation.

package compute

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

// Patch attaches and detaches user-assigned identities and returns when Azure is done. Identities
// in neither list stay, and so does the group's system-assigned identity. The write also names
// identities to attach that are there already, so that Azure refuses those that podid may not
// assign. Patch writes nothing if there is nothing to name.
//
// It costs a read, a write, one poll per second and a final read. A very recent read by the caller
// replaces the initial one. The initial read is required because the PATCH has to state the "type",
// which ARM applies literally. A stale type would remove the group's system-assigned identity, or
// everything that another writer attached. For the same reason the write carries the ETag of that
// read, and Patch starts over if it has changed. If the answer to a write was lost, Patch waits
// until no update of the group is in progress before it reports success or writes again.
//
// ctx bounds the whole call. Canceling it does not stop the operation in Azure, so the next Patch
// fails with IsConflict for a while.
func (c *Client) Patch(ctx context.Context, group Group, attach, detach []string) error {
	if err := checkSize(group, attach, detach); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	var sent writeOutcome
	var first []string // the affirmed identities; later reads also show those attached by a write whose answer was lost
	for try := 1; ; try++ {
		have, change, err := c.prepare(ctx, group, attach, detach, try > 1, &sent)
		if err != nil {
			return sent.mark(err)
		}
		if try == 1 {
			first = change.affirm
		}
		change.affirm = slices.DeleteFunc(change.affirm, func(id string) bool { return indexFold(first, id) < 0 })
		if change.empty() {
			return nil
		}
		err = c.patch(ctx, group, change, precondition(try, change, have.etag), &sent)
		switch {
		case err == nil:
			return nil
		case try < preconditionTries && sent.retryable(err):
		case c.applied(ctx, group, attach, detach, first, &sent):
			return nil
		default:
			return sent.mark(err)
		}
	}
}

// prepare returns the group as it is now and the change that it needs. Unless fresh is set, a very
// recent read of the group is enough if it shows that something has to change.
func (c *Client) prepare(
	ctx context.Context, group Group, attach, detach []string, fresh bool, sent *writeOutcome,
) (snapshot, change, error) {
	have, cached := c.recent.take(group, time.Now())
	if change := plan(have.Identities, attach, detach); cached && !fresh && !change.empty() {
		return have, change, nil
	}
	have, err := c.look(ctx, group, sent)
	if err != nil {
		return snapshot{}, change{}, err
	}
	c.recent.take(group, time.Now())
	return have, plan(have.Identities, attach, detach), nil
}

// precondition returns the ETag that a write carries. The last try has none if it cannot remove
// what it did not read: a group that changes constantly (a scale set that is scaling) would never
// match. Such a PATCH can only overwrite a system-assigned identity that was enabled within these
// milliseconds.
func precondition(try int, change change, etag string) string {
	if try == preconditionTries && !change.wipes() {
		return ""
	}
	return etag
}

// look reads the group. If the answer to a write was lost, a running update may be that write, and
// the group may show either its goal or the state before it. In that case look waits until the
// update is over. Otherwise a running update is another writer's, and what the group shows does not
// come from this client.
func (c *Client) look(ctx context.Context, group Group, sent *writeOutcome) (snapshot, error) {
	if sent.lost {
		return c.follow(ctx, group)
	}
	return c.get(ctx, group)
}

// applied reports whether there were writes whose answers were lost, and they took effect. The
// group cannot show that for affirmed identities.
func (c *Client) applied(ctx context.Context, group Group, attach, detach, affirmed []string, sent *writeOutcome) bool {
	if !sent.lost {
		return false
	}
	have, err := c.look(ctx, group, sent)
	return err == nil && len(affirmed) == 0 && plan(have.Identities, attach, detach).done()
}

// patch is one write with its long-running operation and metrics.
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

// checkSize rejects requests above Azure's limit before anything is sent.
func checkSize(group Group, attach, detach []string) error {
	if n := len(attach) + len(detach); n > MaxPerPatch {
		return fmt.Errorf("patch identities of %s: %d identities in one request, Azure takes %d", group, n, MaxPerPatch)
	}
	return nil
}

// verify compares the state after a successful operation with the request, because another writer
// may have followed immediately. An identity counts as attached only if it is really there.
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

// overtaken returns the conflict error for an operation that succeeded without a lasting effect.
func overtaken(group Group, what string) error {
	return &refusal{
		act: writes, group: group, status: http.StatusConflict, code: "Overtaken",
		message: "Azure says it " + what + ": something else changed the same resource",
	}
}

// changedMeanwhile reports whether the ETag no longer matched.
func changedMeanwhile(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == http.StatusPreconditionFailed
}
