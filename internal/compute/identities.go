package compute

// The identities of a node group, and the PATCH that changes them.

import (
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/podid-io/podid/internal/ascii"
)

// Identities is what Azure has assigned to a node group.
type Identities struct {
	// UserAssigned holds the resource IDs of the user-assigned identities, spelled as Azure spells
	// them, sorted.
	UserAssigned []string
	// SystemAssigned reports whether the group has an identity of its own, which podid never
	// changes.
	SystemAssigned bool
	// ClientIDs are the client IDs of the user-assigned identities, by resource ID as in
	// UserAssigned, as far as Azure shows them.
	ClientIDs map[string]string
	// PrincipalIDs are their principal (object) IDs, in the same way.
	PrincipalIDs map[string]string
	// Orphaned are those of UserAssigned that Azure lists without a client or a principal ID: the
	// identity behind was deleted, or deleted and made again under its name. The machines get no
	// token for it, not even once it exists again: it has to be detached and attached. While
	// Updating it can be one that is only arriving: look again then.
	Orphaned []string
	// Updating reports whether an update of the group is in progress: the identities are those it
	// will have, and the machines may not have them all yet.
	Updating bool
}

// updating is what ARM's provisioningState says of an update that is not over.
func updating(provisioningState *string) bool {
	return ascii.EqualFold(value(provisioningState), "Updating")
}

// Has reports whether the user-assigned identity is among them. Letter case does not matter.
func (i Identities) Has(resourceID string) bool {
	return indexFold(i.UserAssigned, resourceID) >= 0
}

// indexFold is slices.Index without regard to letter case.
func indexFold(ids []string, id string) int {
	return slices.IndexFunc(ids, func(have string) bool { return alike(have, id) })
}

// alike reports whether Azure may take two resource IDs for one.
func alike(a, b string) bool { return ascii.EqualFold(a, b) || ascii.Loose(a) == ascii.Loose(b) }

// Respelled returns the same identities in the spellings of known. Two IDs that differ in the case
// of letters outside ASCII are two to everything that compares IDs in this program, and one to
// Azure: the group has both when it has one.
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

// change is the difference between what a group has and what it shall have: the body of one PATCH,
// in words.
type change struct {
	kind   armcompute.ResourceIdentityType
	attach []string // as the caller spells them
	affirm []string // in Azure's spelling: already on the group, but named again
	detach []string // as Azure spells them
}

// wipes reports whether the PATCH carries no map of identities at all, so that ARM removes whatever
// is there.
func (c change) wipes() bool {
	return c.kind == armcompute.ResourceIdentityTypeNone || c.kind == armcompute.ResourceIdentityTypeSystemAssigned
}

// empty reports that the group is already as it shall be, and nothing is to be affirmed.
func (c change) empty() bool {
	return len(c.attach)+len(c.affirm)+len(c.detach) == 0
}

// done reports that the group has what is to be attached and nothing of what is to be detached.
func (c change) done() bool { return len(c.attach)+len(c.detach) == 0 }

// named are the identities that the PATCH names.
func (c change) named() []string { return slices.Concat(c.attach, c.affirm, c.detach) }

// plan works out the change that attaches and detaches. A null for an identity that is not there is
// left out: it only gives ARM another reason to refuse. An identity to attach that is there already
// is affirmed: named once more, so that ARM checks whether the caller may assign it. An identity in
// both lists is attached.
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

// kindOf is the "type" that ARM wants next to that many user-assigned identities. ARM takes it at
// its word: a type without "SystemAssigned" removes the group's own identity.
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

// body is the "userAssignedIdentities" of the PATCH: an empty object adds, null removes, what is
// not named stays. When none is left it is nil, because ARM refuses the map beside type None or
// SystemAssigned.
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

// identitiesOf reads the "type" and "userAssignedIdentities" of an answer; both may be missing.
func identitiesOf(kind *armcompute.ResourceIdentityType, ids map[string]*armcompute.UserAssignedIdentitiesValue) Identities {
	var have Identities
	if kind != nil {
		// ARM has been seen to write the list with and without the blank.
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

// finish puts the lists in order.
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
