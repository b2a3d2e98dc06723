// Selection of the requested identity among those that a pod may use.

package identity

import (
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/reason"
)

// Selector is the identity that a request names: at most one of the three fields, the zero value
// when it names none. If several are set, all must match.
type Selector struct{ ClientID, ObjectID, ResourceID string }

// Named reports whether the request names an identity at all.
func (s Selector) Named() bool { return s != Selector{} }

// String returns the selector for a message, with IDs shortened.
func (s Selector) String() string {
	switch {
	case s.ClientID != "":
		return "client_id " + short(s.ClientID)
	case s.ObjectID != "":
		return "object_id " + short(s.ObjectID)
	case s.ResourceID != "":
		return "msi_res_id " + s.ResourceID
	default:
		return "no selector"
	}
}

// Choose returns the granted identity that the selector names, or the first when it names none.
// grants must be in order of precedence, as Grants returns them. IDs compare case-insensitively.
//
// objectID may add what an object lacks: the object ID that a token of the identity carried (""
// when unknown). It is called only for identities without spec.objectID. If it is nil, only the
// spec counts.
func Choose(grants []Grant, s Selector, objectID func(*v1.AzureIdentity) string) (Grant, *reason.Refusal) {
	for _, g := range grants {
		if s.matches(g.Identity, objectID) {
			return g, nil
		}
	}
	return Grant{}, refuseNoMatch(grants, s)
}

func (s Selector) matches(id *v1.AzureIdentity, objectID func(*v1.AzureIdentity) string) bool {
	if s.ClientID != "" && !ascii.EqualFold(s.ClientID, id.Spec.ClientID) {
		return false
	}
	// Only a managed identity has a resource ID, even if it is federated. A service principal whose
	// object has one by mistake cannot be selected by it.
	managed := id.Spec.Type == v1.UserAssignedMSI || id.Spec.Type == v1.Federated
	if s.ResourceID != "" &&
		(!managed || !ascii.EqualFold(s.ResourceID, id.Spec.ResourceID)) {
		return false
	}
	return s.ObjectID == "" || ascii.EqualFold(s.ObjectID, objectIDOf(id, objectID))
}

func objectIDOf(id *v1.AzureIdentity, learned func(*v1.AzureIdentity) string) string {
	if id.Spec.ObjectID != "" || learned == nil {
		return id.Spec.ObjectID
	}
	return learned(id)
}

// short keeps enough of an ID for a person to recognize it and drops the rest, since messages end
// up in logs and Events.
func short(id string) string {
	const keep = 8 // the first group of a GUID
	r := []rune(id)
	if len(r) <= keep {
		return id
	}
	return string(r[:keep]) + "…"
}

func refuseNoMatch(grants []Grant, s Selector) *reason.Refusal {
	if len(grants) == 0 {
		return reason.NoMatch.Refuse("the pod may use no identity, so none can be chosen")
	}
	names := make([]string, 0, len(grants))
	for _, g := range grants {
		names = append(names, key(g.Identity))
	}
	return reason.NoMatch.Refuse(
		"%s names none of the identities this pod may use (%s): ask for one of these, or bind the other one to the pod with an AzureIdentityBinding",
		s, strings.Join(names, ", "))
}
