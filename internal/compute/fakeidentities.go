package compute

// The identities that exist in a Fake, and what its groups show of them.

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/podid-io/podid/internal/ascii"
)

// fakeIdentity is one user-assigned identity. Made again under its old name it is another one.
type fakeIdentity struct{ clientID, principalID string }

// SetGroup creates the group, or sets what it has. Its identities exist from then on, with the client and principal
// IDs given, if any are; those of have.Orphaned are listed without IDs.
func (f *Fake) SetGroup(group Group, have Identities) {
	f.mu.Lock()
	defer f.mu.Unlock()
	target := &fakeGroup{system: have.SystemAssigned, updating: have.Updating}
	for _, id := range have.UserAssigned {
		f.know(id)
		identity := f.known[ascii.Loose(id)]
		if client := have.ClientIDs[id]; client != "" {
			identity.clientID = client
		}
		if principal := have.PrincipalIDs[id]; principal != "" {
			identity.principalID = principal
		}
		f.known[ascii.Loose(id)] = identity
		if indexFold(have.Orphaned, id) >= 0 {
			identity = fakeIdentity{}
		}
		target.attach(id, identity)
	}
	f.groups[group] = target
}

// AddIdentities makes user-assigned identities exist in Azure, so that they can be attached. One that was deleted
// before gets new client and principal IDs; groups that still list it do not get it back by that (Orphaned), but by
// detaching and attaching.
func (f *Fake) AddIdentities(resourceIDs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.know(resourceIDs...)
}

// DeleteIdentity makes an identity not exist any more. Groups that have it go on listing it, as in Azure: Orphaned.
func (f *Fake) DeleteIdentity(resourceID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, ascii.Loose(resourceID))
}

// KeepStaleIDs chooses what groups show of an identity that was deleted (and perhaps made again) while they had it: no
// IDs (false, the default), or those it had when it was attached, as Azure has been seen to do as well.
func (f *Fake) KeepStaleIDs(keep bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stale = keep
}

// RefuseDeleted makes the groups refuse, by name, every PATCH that leaves an identity on them that does not exist any
// more, as Azure has been seen to do.
func (f *Fake) RefuseDeleted(refuse bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.strict = refuse
}

// unknown finds an identity that stands in the way of the change: one to attach that does not exist, or, with
// RefuseDeleted, one that stays. The caller holds the lock.
func (f *Fake) unknown(g *fakeGroup, c change) (string, bool) {
	needed := c.attach
	if f.strict {
		stay := slices.DeleteFunc(slices.Clone(g.user), func(id string) bool { return indexFold(c.detach, id) >= 0 })
		needed = slices.Concat(needed, stay)
	}
	at := slices.IndexFunc(needed, func(id string) bool { return !f.exists(id) })
	if at < 0 {
		return "", false
	}
	return needed[at], true
}

// apply merges a change. The caller holds the lock.
func (f *Fake) apply(g *fakeGroup, c change) {
	for _, id := range c.attach {
		g.attach(id, f.known[ascii.Loose(id)])
	}
	for _, id := range c.detach {
		g.detach(id)
	}
}

// FakeClientID returns the client ID that an identity has in a Fake, or will have, when it is made for the first time.
func FakeClientID(resourceID string) string {
	return fakeGUID("client " + ascii.Loose(resourceID) + "#1")
}

// IDsOf returns the client and principal ID that an identity has now, empty when it does not exist.
func (f *Fake) IDsOf(resourceID string) (clientID, principalID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	identity := f.known[ascii.Loose(resourceID)]
	return identity.clientID, identity.principalID
}

// PauseSubscription makes Pause tell groups of the subscription to stay away for that long from now.
func (f *Fake) PauseSubscription(subscriptionID string, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pauses[ascii.Loose(subscriptionID)] = time.Now().Add(d)
}

// Pause is Client.Pause: it tells of PauseSubscription, and of the Retry-After of a refused PATCH (ThrottleNext).
func (f *Fake) Pause(group Group) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	until := f.pauses[group.SubscriptionID]
	if target, ok := f.groups[group]; ok && target.pause.After(until) {
		until = target.pause
	}
	return max(time.Until(until), 0)
}

// know makes identities exist. The caller holds the lock.
func (f *Fake) know(resourceIDs ...string) {
	for _, id := range resourceIDs {
		if f.exists(id) {
			continue
		}
		key := ascii.Loose(id)
		f.made[key]++
		seed := key + "#" + strconv.Itoa(f.made[key])
		f.known[key] = fakeIdentity{clientID: fakeGUID("client " + seed), principalID: fakeGUID("principal " + seed)}
	}
}

// exists looks an identity up. The caller holds the lock.
func (f *Fake) exists(id string) bool {
	_, ok := f.known[ascii.Loose(id)]
	return ok
}

// show is what ARM shows of a group. The caller holds the lock.
func (f *Fake) show(g *fakeGroup) Identities {
	have := Identities{SystemAssigned: g.system, Updating: g.updating || g.running != nil}
	if g.running != nil { // ARM shows what it works towards
		goal := &fakeGroup{user: slices.Clone(g.user), bound: maps.Clone(g.bound)}
		f.apply(goal, g.running.change)
		g = goal
	}
	for _, id := range g.user {
		key := ascii.Loose(id)
		bound := g.bound[key]
		if !f.stale && f.known[key] != bound {
			bound = fakeIdentity{}
		}
		have.list(id, bound.clientID, bound.principalID)
	}
	have.finish()
	return have
}

// attach lists an identity, as what it is now.
func (g *fakeGroup) attach(id string, identity fakeIdentity) {
	if g.bound == nil {
		g.bound = map[string]fakeIdentity{}
	}
	g.bound[ascii.Loose(id)] = identity
	if indexFold(g.user, id) < 0 {
		g.user = append(g.user, id)
	}
}

// detach takes an identity off the list.
func (g *fakeGroup) detach(id string) {
	delete(g.bound, ascii.Loose(id))
	g.user = slices.DeleteFunc(g.user, func(have string) bool { return alike(have, id) })
}

// fakeGUID derives a GUID, the same for the same seed.
func fakeGUID(seed string) string {
	sum := sha256.Sum256([]byte(seed))
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-8" + h[17:20] + "-" + h[20:]
}
