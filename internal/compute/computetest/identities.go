// The identities that exist in a Fake, and what its groups show of them.

package computetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/compute"
)

// identity is one user-assigned identity. Recreated under its old name, it is a different one.
type identity struct{ clientID, principalID string }

// SetGroup creates or replaces the group. Its identities exist from then on, with the client and
// principal IDs in have, if any. Those in have.Orphaned are listed without IDs.
func (f *Fake) SetGroup(of compute.Group, have compute.Identities) {
	f.mu.Lock()
	defer f.mu.Unlock()
	target := &group{system: have.SystemAssigned, updating: have.Updating}
	for _, id := range have.UserAssigned {
		f.create(id)
		created := f.known[ascii.Loose(id)]
		if client := have.ClientIDs[id]; client != "" {
			created.clientID = client
		}
		if principal := have.PrincipalIDs[id]; principal != "" {
			created.principalID = principal
		}
		f.known[ascii.Loose(id)] = created
		if has(have.Orphaned, id) {
			created = identity{}
		}
		target.attach(id, created)
	}
	f.groups[of] = target
}

// AddIdentities creates user-assigned identities, which can then be attached. One that was deleted
// before gets new client and principal IDs. Groups that still list it show it as Orphaned until it
// is detached and attached again.
func (f *Fake) AddIdentities(resourceIDs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.create(resourceIDs...)
}

// DeleteIdentity deletes an identity. Groups that have it still list it, as in Azure: Orphaned.
func (f *Fake) DeleteIdentity(resourceID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, ascii.Loose(resourceID))
}

// KeepStaleIDs sets what groups show of an identity that was deleted, and perhaps recreated, while
// they had it: no IDs (false, the default), or those from when it was attached. Azure has been seen
// to do both.
func (f *Fake) KeepStaleIDs(keep bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stale = keep
}

// RefuseDeleted sets whether groups refuse every PATCH that leaves a deleted identity on them, with
// an error that names it. This has been observed on Azure.
func (f *Fake) RefuseDeleted(refuse bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.strict = refuse
}

// missing returns an identity that does not exist and prevents the change: one to attach or, with
// RefuseDeleted, one that stays. The caller holds the lock.
func (f *Fake) missing(g *group, c *operation) (string, bool) {
	needed := c.attach
	if f.strict {
		stay := slices.DeleteFunc(slices.Clone(g.user), func(id string) bool { return has(c.detach, id) })
		needed = slices.Concat(needed, stay)
	}
	at := slices.IndexFunc(needed, func(id string) bool { return !f.exists(id) })
	if at < 0 {
		return "", false
	}
	return needed[at], true
}

// apply merges a change. The caller holds the lock.
func (f *Fake) apply(g *group, c *operation) {
	for _, id := range c.attach {
		g.attach(id, f.known[ascii.Loose(id)])
	}
	for _, id := range c.detach {
		g.detach(id)
	}
}

// ClientID returns the client ID that an identity has in a Fake when it is created for the first
// time.
func ClientID(resourceID string) string {
	return guid("client " + ascii.Loose(resourceID) + "#1")
}

// IDsOf returns the client and principal ID that an identity has now. They are empty when it does
// not exist.
func (f *Fake) IDsOf(resourceID string) (clientID, principalID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.known[ascii.Loose(resourceID)]
	return now.clientID, now.principalID
}

// ClientID implements Client.
func (f *Fake) ClientID(ctx context.Context, resourceID string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", compute.ClientIDError(resourceID, err)
	}
	client, _ := f.IDsOf(resourceID)
	if client == "" {
		return "", compute.ClientIDError(resourceID, answer(http.StatusNotFound, "ResourceNotFound", "", 0))
	}
	return client, nil
}

// PauseSubscription makes Pause return d, counted from now, for groups of the subscription.
func (f *Fake) PauseSubscription(subscriptionID string, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pauses[ascii.Loose(subscriptionID)] = time.Now().Add(d)
}

// Pause is like Client.Pause. It returns the pause of PauseSubscription or of the Retry-After of a
// refused PATCH (ThrottleNext).
func (f *Fake) Pause(of compute.Group, _ time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	until := f.pauses[of.SubscriptionID]
	if target, ok := f.groups[of]; ok && target.pause.After(until) {
		until = target.pause
	}
	return max(time.Until(until), 0)
}

// create adds identities. The caller holds the lock.
func (f *Fake) create(resourceIDs ...string) {
	for _, id := range resourceIDs {
		if f.exists(id) {
			continue
		}
		key := ascii.Loose(id)
		f.created[key]++
		seed := key + "#" + strconv.Itoa(f.created[key])
		f.known[key] = identity{clientID: guid("client " + seed), principalID: guid("principal " + seed)}
	}
}

// exists reports whether an identity exists. The caller holds the lock.
func (f *Fake) exists(id string) bool {
	_, ok := f.known[ascii.Loose(id)]
	return ok
}

// show returns what ARM shows of a group: during an operation, its goal. The caller holds the lock.
func (f *Fake) show(g *group) compute.Identities {
	have := compute.Identities{
		SystemAssigned: g.system, Updating: g.updating || g.running != nil,
		ClientIDs: map[string]string{}, PrincipalIDs: map[string]string{},
	}
	if g.running != nil {
		goal := &group{user: slices.Clone(g.user), bound: maps.Clone(g.bound)}
		f.apply(goal, g.running)
		g = goal
	}
	have.UserAssigned = slices.Sorted(slices.Values(g.user))
	for _, id := range have.UserAssigned {
		key := ascii.Loose(id)
		bound := g.bound[key]
		if !f.stale && f.known[key] != bound || bound == (identity{}) {
			have.Orphaned = append(have.Orphaned, id)
			continue
		}
		have.ClientIDs[id], have.PrincipalIDs[id] = bound.clientID, bound.principalID
	}
	return have
}

// attach lists an identity with its current IDs.
func (g *group) attach(id string, now identity) {
	if g.bound == nil {
		g.bound = map[string]identity{}
	}
	g.bound[ascii.Loose(id)] = now
	if !has(g.user, id) {
		g.user = append(g.user, id)
	}
}

// detach removes an identity from the list.
func (g *group) detach(id string) {
	delete(g.bound, ascii.Loose(id))
	g.user = slices.DeleteFunc(g.user, func(have string) bool { return ascii.Loose(have) == ascii.Loose(id) })
}

// guid derives a GUID from a seed.
func guid(seed string) string {
	sum := sha256.Sum256([]byte(seed))
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-8" + h[17:20] + "-" + h[20:]
}
