// The identities of a node group, and the PATCH that changes them.

package compute

import (
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/podid-io/podid/internal/ascii"
)

// Identities is what Azure has assigned to a node group.
type Identities struct {
	// UserAssigned holds the resource IDs of the user-assigned identities, sorted, in Azure's
	// spelling.
	UserAssigned []string
	// SystemAssigned reports whether the group has an identity of its own, which podid never
	// changes.
	SystemAssigned bool
	// ClientIDs are the client IDs of the user-assigned identities, by resource ID as in
	// UserAssigned, as far as Azure shows them.
	ClientIDs map[string]string
	// PrincipalIDs are their principal (object) IDs, with the same keys.
	PrincipalIDs map[string]string
	// Orphaned are those of UserAssigned that Azure lists without a client or principal ID. The
	// identity was deleted, and possibly recreated under its name. The machines get no token for it,
	// even if it exists again, until it is detached and attached. While Updating, an identity that is
	// still being attached can look the same: read again then.
	Orphaned []string
	// Updating reports whether an update of the group is in progress. The identities are then those
	// after the update, and the machines may not have all of them yet.
	Updating bool
}

// updating reports whether ARM's provisioningState means that an update is in progress.
func updating(provisioningState *string) bool {
	return ascii.EqualFold(value(provisioningState), "Updating")
}

// Has reports whether the user-assigned identity is assigned. Letter case does not matter.
func (i Identities) Has(resourceID string) bool {
	return indexFold(i.UserAssigned, resourceID) >= 0
}

// indexFold is slices.Index without regard to letter case.
func indexFold(ids []string, id string) int {
	return slices.IndexFunc(ids, func(have string) bool { return alike(have, id) })
}

// alike reports whether Azure may treat two resource IDs as equal.
func alike(a, b string) bool { return ascii.EqualFold(a, b) || ascii.Loose(a) == ascii.Loose(b) }

// Respelled returns the same identities in the spellings of known. Azure treats two IDs that differ
// in the case of non-ASCII letters as one, while this program compares them as different. The
// result contains every spelling of an identity that the group has.
func (i Identities) Respelled(known []string) Identities {
	spellings := map[string][]string{}
	for _, id := range known {
		loose := ascii.Loose(id)
		same := func(other string) bool { return ascii.EqualFold(id, other) }
		if !ascii.Is(id) && !slices.ContainsFunc(spellings[loose], same) {
			spellings[loose] = append(spellings[loose], id)
		}
	}
	if len(spellings) == 0 {
		return i
	}
	respelled := Identities{SystemAssigned: i.SystemAssigned, Updating: i.Updating}
	for _, id := range i.UserAssigned {
		as := spellings[ascii.Loose(id)]
		if len(as) == 0 {
			as = []string{id}
		}
		for _, spelling := range as {
			respelled.list(spelling, i.ClientIDs[id], i.PrincipalIDs[id])
		}
	}
	respelled.finish()
	return respelled
}

// change is the difference between the current and the desired state of a group: the content of one
// PATCH.
type change struct {
	kind   armcompute.ResourceIdentityType
	attach []string // in the caller's spelling
	affirm []string // in Azure's spelling: already on the group, but named again
	detach []string // in Azure's spelling
}

// wipes reports whether the PATCH carries no map of identities, so that ARM removes all of them.
func (c change) wipes() bool {
	return c.kind == armcompute.ResourceIdentityTypeNone || c.kind == armcompute.ResourceIdentityTypeSystemAssigned
}

// empty reports whether the group already matches and there is nothing to affirm.
func (c change) empty() bool {
	return len(c.attach)+len(c.affirm)+len(c.detach) == 0
}

// done reports whether nothing is left to attach or detach.
func (c change) done() bool { return len(c.attach)+len(c.detach) == 0 }

// named returns the identities that the PATCH names.
func (c change) named() []string { return slices.Concat(c.attach, c.affirm, c.detach) }

// plan returns the change that attaches and detaches. It omits identities to detach that are not
// there, which would only give ARM another reason to refuse. Identities to attach that are there
// already are affirmed: named again, so that ARM checks whether the caller may assign them. An
// identity in both lists is attached.
func plan(have Identities, attach, detach []string) change {
	var c change
	for _, id := range attach {
		switch at := indexFold(have.UserAssigned, id); {
		case at < 0 && indexFold(c.attach, id) < 0:
			c.attach = append(c.attach, id)
		case at >= 0 && indexFold(c.affirm, id) < 0:
			c.affirm = append(c.affirm, have.UserAssigned[at])
		}
	}
	for _, id := range detach {
		at := indexFold(have.UserAssigned, id)
		if at >= 0 && indexFold(attach, id) < 0 && indexFold(c.detach, id) < 0 {
			c.detach = append(c.detach, have.UserAssigned[at])
		}
	}
	c.kind = kindOf(len(have.UserAssigned)+len(c.attach)-len(c.detach), have.SystemAssigned)
	return c
}

// kindOf returns the "type" for that many user-assigned identities. ARM applies it literally: a
// type without "SystemAssigned" removes the group's own identity.
func kindOf(userAssigned int, systemAssigned bool) armcompute.ResourceIdentityType {
	switch {
	case userAssigned > 0 && systemAssigned:
		return armcompute.ResourceIdentityTypeSystemAssignedUserAssigned
	case userAssigned > 0:
		return armcompute.ResourceIdentityTypeUserAssigned
	case systemAssigned:
		return armcompute.ResourceIdentityTypeSystemAssigned
	default:
		return armcompute.ResourceIdentityTypeNone
	}
}

// body returns the "userAssignedIdentities" of the PATCH: an empty object adds, null removes, and
// identities that are not named stay. It is nil if none is left, because ARM refuses the map with
// type None or SystemAssigned.
func (c change) body() map[string]*armcompute.UserAssignedIdentitiesValue {
	if c.wipes() {
		return nil
	}
	ids := make(map[string]*armcompute.UserAssignedIdentitiesValue, len(c.attach)+len(c.affirm)+len(c.detach))
	for _, id := range slices.Concat(c.attach, c.affirm) {
		ids[id] = &armcompute.UserAssignedIdentitiesValue{}
	}
	for _, id := range c.detach {
		ids[id] = nil
	}
	return ids
}

// identitiesOf converts the "type" and "userAssignedIdentities" of a response; both may be missing.
func identitiesOf(kind *armcompute.ResourceIdentityType, ids map[string]*armcompute.UserAssignedIdentitiesValue) Identities {
	var have Identities
	if kind != nil {
		// ARM writes the list with or without a space.
		have.SystemAssigned = strings.Contains(ascii.ToLower(string(*kind)), "systemassigned")
	}
	for id, about := range ids {
		if about == nil {
			about = &armcompute.UserAssignedIdentitiesValue{}
		}
		have.list(id, value(about.ClientID), value(about.PrincipalID))
	}
	have.finish()
	return have
}

// finish sorts the lists.
func (i *Identities) finish() {
	slices.Sort(i.UserAssigned)
	slices.Sort(i.Orphaned)
}

// list adds a user-assigned identity with its IDs. Call finish after the last one.
func (i *Identities) list(id, clientID, principalID string) {
	i.UserAssigned = append(i.UserAssigned, id)
	if clientID != "" {
		if i.ClientIDs == nil {
			i.ClientIDs = map[string]string{}
		}
		i.ClientIDs[id] = clientID
	}
	if principalID != "" {
		if i.PrincipalIDs == nil {
			i.PrincipalIDs = map[string]string{}
		}
		i.PrincipalIDs[id] = principalID
	}
	if clientID == "" || principalID == "" {
		i.Orphaned = append(i.Orphaned, id)
	}
}
