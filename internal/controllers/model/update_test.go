// How the model's Azure carries out an update.

package model

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
)

// patch carries out an update, unless the fault prevents it.
func (a *azure) patch(ctx context.Context, group compute.Group, attach, detach []string, f fault, bad bool) error {
	requested := slices.Concat(attach, detach)
	if bad {
		switch f {
		case throttled:
			a.fake.ThrottleNext(40 * time.Second)
			return a.fake.Patch(ctx, group, attach, detach)
		case broken, conflicting, unreachable:
			return a.answer(f, group, requested)
		case hanging:
			<-ctx.Done()
			return fmt.Errorf("patch identities of %s: %w", group, ctx.Err())
		}
	}
	if err := a.refuse(group, attach, detach); err != nil {
		return err
	}
	before := a.listed(group)
	a.mark(group, attach)
	if err := a.fake.Patch(ctx, group, attach, detach); err != nil {
		return err
	}
	// From here on the group lists the new identities. Its machines get them later.
	takes := a.takes
	if bad && f == slow {
		takes = 2 * time.Minute
	}
	op := &operation{attach: setOf(missing(attach, before)), detach: setOf(detach), began: time.Now(), until: time.Now().Add(takes)}
	a.mu.Lock()
	a.running[group] = op
	for k := range op.detach {
		a.taken[slot{group, k}] = time.Now()
	}
	for _, id := range attach {
		delete(a.taken, slot{group, strings.ToLower(id)})
	}
	a.mu.Unlock()
	if !sleep(ctx, takes) {
		return fmt.Errorf("patch identities of %s: %w", group, ctx.Err())
	}
	if !bad {
		return nil
	}
	switch f {
	case hangingDone:
		a.markUncertain(group, op.attach)
		<-ctx.Done()
		return fmt.Errorf("patch identities of %s: %w", group, ctx.Err())
	case lost:
		a.markUncertain(group, op.attach)
		return a.answer(f, group, requested)
	case failingLate:
		a.undo(group, missing(attach, before))
		return a.answer(f, group, requested)
	}
	return nil
}

func missing(ids []string, from map[string]bool) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return from[strings.ToLower(id)] })
}

// mark records as MIC's what MIC attaches that is not there yet.
func (a *azure) mark(group compute.Group, attach []string) {
	listed := a.listed(group)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range missing(attach, listed) {
		if k := strings.ToLower(id); !a.foreign[group][k] { // otherwise MIC attaches it again for another client
			put(a.mine, group, k)
		}
	}
}

// markUncertain records that MIC does not know the outcome of an update.
func (a *azure) markUncertain(group compute.Group, attach map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unsure[group] = union(a.unsure[group], attach)
}

// undo reverts what an update attached.
func (a *azure) undo(group compute.Group, attached []string) {
	if len(attached) > 0 {
		_ = a.fake.Patch(context.Background(), group, nil, attached) // the group may be gone
	}
}

// refuse returns the error with which ARM rejects an update immediately, or nil.
func (a *azure) refuse(group compute.Group, attach, detach []string) error {
	have, exists := a.has(group)
	a.mu.Lock()
	defer a.mu.Unlock()
	requested := slices.Concat(attach, detach)
	if !exists {
		return nil // the fake returns the error
	}
	if a.forbidden[group] {
		return computetest.Refusal(group, http.StatusForbidden, "AuthorizationFailed", "no right to write the machine", requested, 0)
	}
	if a.updating(group) != nil {
		return a.answer(conflicting, group, requested)
	}
	if a.strict {
		for _, id := range have.Orphaned {
			if client, _ := a.fake.IDsOf(id); client == "" && !slices.ContainsFunc(detach, func(d string) bool { return strings.EqualFold(d, id) }) {
				return computetest.Refusal(group, http.StatusBadRequest, "FailedIdentityOperation",
					"Identity operation failed: resource '"+id+"' was not found.", requested, 0)
			}
		}
	}
	for _, id := range attach {
		switch a.fates[strings.ToLower(id)] {
		case forbidden:
			return computetest.Refusal(group, http.StatusForbidden, "LinkedAuthorizationFailed",
				"the client has no right to perform assign/action on the linked scope(s) '"+id+"'", requested, 0)
		case cursed:
			return computetest.Refusal(group, http.StatusBadRequest, "BadRequest", "one of them is bad", requested, 0)
		}
	}
	return nil
}

// end records what MIC knows after an update.
func (a *azure) end(group compute.Group, attach, detach []string, err error) {
	listed := a.listed(group)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flying[group]--
	if err != nil {
		refused := compute.IsRefused(err) || len(compute.BadIdentities(err)) > 0
		a.ill, a.refusing = a.ill || !refused, a.refusing || refused
	}
	a.leave(group)
	known := a.known[group]
	if known == nil {
		known = map[string]bool{}
		a.known[group] = known
	}
	for _, id := range detach {
		k := strings.ToLower(id)
		delete(known, k)
		delete(a.leaving, slot{group, k})
		if client, _ := a.fake.IDsOf(k); client == "" && !listed[k] {
			delete(a.foreign[group], k) // it was deleted, and cannot be attached again
		}
		if !listed[k] {
			delete(a.mine[group], k)
		}
	}
	for _, id := range attach {
		if err == nil {
			known[strings.ToLower(id)] = true
			delete(a.unsure[group], strings.ToLower(id))
			delete(a.renewing, slot{group, strings.ToLower(id)})
		}
	}
}

// upgrade starts another client's operation on a group, during which Azure accepts no other.
func (a *azure) upgrade(group compute.Group, takes time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.updating(group) == nil {
		a.running[group] = &operation{began: time.Now(), until: time.Now().Add(takes)}
		a.ill = true
	}
}

// endFaults removes all faults that keep identities from groups.
func (a *azure) endFaults() {
	for n := range resources {
		a.fake.AddIdentities(resourceID(n))
	}
	for _, group := range groups() {
		if _, exists := a.has(group); !exists {
			a.fake.SetGroup(group, compute.Identities{})
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.fates)
	clear(a.forbidden)
}

// Pause implements attachment.Cloud.
func (a *azure) Pause(group compute.Group, since time.Time) time.Duration {
	d := a.fake.Pause(group, since)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ill, a.blind[group] = a.ill || d > 0, a.blind[group] || d > 0
	return d
}

// ClientID implements attachment.Cloud.
func (a *azure) ClientID(ctx context.Context, resourceID string) (string, error) {
	return a.fake.ClientID(ctx, resourceID)
}

// handAdd attaches an identity to a group as another client.
func (a *azure) handAdd(group compute.Group, id string) bool {
	if client, _ := a.fake.IDsOf(id); client == "" {
		return false
	}
	k := strings.ToLower(id)
	if _, exists := a.has(group); !exists || a.listed(group)[k] {
		return false
	}
	ambiguous := a.ledger(group)[k] // podid cannot distinguish that from its own update
	if a.fake.Patch(context.Background(), group, []string{id}, nil) != nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.mine[group], k)
	delete(a.taken, slot{group, k})
	if !ambiguous {
		put(a.foreign, group, k)
	}
	return true
}

// handRemove detaches an identity from a group as another client.
func (a *azure) handRemove(group compute.Group, id string) bool {
	k := strings.ToLower(id)
	if !a.listed(group)[k] || a.fake.Patch(context.Background(), group, nil, []string{id}) != nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.mine[group], k)
	delete(a.foreign[group], k)
	return true
}

// deleteIdentity deletes a managed identity. Groups that list it keep listing it. On other groups
// no client misses it anymore.
func (a *azure) deleteIdentity(id string) bool {
	client, _ := a.fake.IDsOf(id)
	a.fake.DeleteIdentity(id)
	a.forget(strings.ToLower(id))
	return client != ""
}

// forget drops an identity from the other clients' records of all groups that do not list it.
func (a *azure) forget(k string) {
	for _, group := range groups() {
		if listed := a.listed(group); !listed[k] {
			a.mu.Lock()
			delete(a.foreign[group], k)
			a.mu.Unlock()
		}
	}
}

// deleteGroup deletes a VM or scale set.
func (a *azure) deleteGroup(group compute.Group) bool {
	if _, exists := a.has(group); !exists {
		return false
	}
	a.fake.DeleteGroup(group)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.mine, group)
	delete(a.foreign, group)
	delete(a.running, group)
	return true
}

func put(sets map[compute.Group]map[string]bool, group compute.Group, k string) {
	if sets[group] == nil {
		sets[group] = map[string]bool{}
	}
	sets[group][k] = true
}

func union(a, b map[string]bool) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// sleep waits, and returns false if the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// short returns the last segment of a resource ID.
func short(k string) string { return k[strings.LastIndex(k, "/")+1:] }

func clock(t time.Time) string { return t.Format("15:04:05.000") }
