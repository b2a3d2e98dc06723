// How Azure of the model carries out an update.

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

// patch carries an update out, or not.
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
	// From here on the group lists what it will have; its machines get it later.
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
		a.doubt(group, op.attach)
		<-ctx.Done()
		return fmt.Errorf("patch identities of %s: %w", group, ctx.Err())
	case lost:
		a.doubt(group, op.attach)
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

// mark notes what MIC attaches that is not there yet.
func (a *azure) mark(group compute.Group, attach []string) {
	listed := a.listed(group)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range missing(attach, listed) {
		if k := strings.ToLower(id); !a.foreign[group][k] { // else it is put back
			put(a.mine, group, k)
		}
	}
}

// doubt notes that MIC does not know whether an update was carried out.
func (a *azure) doubt(group compute.Group, attach map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unsure[group] = union(a.unsure[group], attach)
}

// undo takes back what an update attached.
func (a *azure) undo(group compute.Group, attached []string) {
	if len(attached) > 0 {
		_ = a.fake.Patch(context.Background(), group, nil, attached) // the group may be gone
	}
}

// refuse is what ARM says no to before it begins.
func (a *azure) refuse(group compute.Group, attach, detach []string) error {
	have, exists := a.has(group)
	a.mu.Lock()
	defer a.mu.Unlock()
	requested := slices.Concat(attach, detach)
	if !exists {
		return nil // the fake says so
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

// end notes what MIC knows now.
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
			delete(a.foreign[group], k) // there is nothing that could be put back
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

// upgrade is somebody else's operation on a group, during which it takes no other.
func (a *azure) upgrade(group compute.Group, takes time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.updating(group) == nil {
		a.running[group] = &operation{began: time.Now(), until: time.Now().Add(takes)}
		a.ill = true
	}
}

// mend ends all that keeps identities from groups.
func (a *azure) mend() {
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

// Pause is attachment.Cloud.
func (a *azure) Pause(group compute.Group) time.Duration {
	d := a.fake.Pause(group)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ill, a.blind[group] = a.ill || d > 0, a.blind[group] || d > 0
	return d
}

// ClientID is attachment.Cloud.
func (a *azure) ClientID(ctx context.Context, resourceID string) (string, error) {
	return a.fake.ClientID(ctx, resourceID)
}

// handAdd is somebody else who puts an identity on a group.
func (a *azure) handAdd(group compute.Group, id string) bool {
	if client, _ := a.fake.IDsOf(id); client == "" {
		return false
	}
	k := strings.ToLower(id)
	if _, exists := a.has(group); !exists || a.listed(group)[k] {
		return false
	}
	ambiguous := a.ledger(group)[k] // podid cannot tell that from its own doing
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

// handRemove is somebody else who takes an identity off a group.
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

// deleteIdentity is a person who deletes a managed identity. Groups that list it go on
// doing so; on others nobody misses it any more.
func (a *azure) deleteIdentity(id string) bool {
	client, _ := a.fake.IDsOf(id)
	a.fake.DeleteIdentity(id)
	a.forget(strings.ToLower(id))
	return client != ""
}

// forget strikes an identity that somebody else put on groups off where it is not.
func (a *azure) forget(k string) {
	for _, group := range groups() {
		if listed := a.listed(group); !listed[k] {
			a.mu.Lock()
			delete(a.foreign[group], k)
			a.mu.Unlock()
		}
	}
}

// deleteGroup removes a machine or scale set.
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

// sleep waits; false when the context ended first.
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

// short is the last part of a resource ID.
func short(k string) string { return k[strings.LastIndex(k, "/")+1:] }

func clock(t time.Time) string { return t.Format("15:04:05.000") }
