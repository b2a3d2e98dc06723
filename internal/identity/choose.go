// From what a pod may use to what it asked for.

package identity

import (
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/reason"
)

// Selector is what a request names: at most one of the three, the zero value
// when it leaves the choice to us. Should several be named, all must match.
type Selector struct{ ClientID, ObjectID, ResourceID string }

// Named reports whether the request names an identity at all.
func (s Selector) Named() bool { return s != Selector{} }

// String is the selector for a message; ids are shortened.
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

// Choose picks the granted identity that the selector names, or the first of
// them when it names none. grants must be in order of precedence, as Grants
// returns them. Ids compare case-insensitively.
//
// objectID may add what an object cannot say: the object id that a token of the
// identity carried ("" when unknown). It is asked only for identities without
// spec.objectID; nil means nobody knows more than the spec.
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
	// Only a managed identity has a resource ID, be it federated; a service
	// principal whose object carries one by mistake is not reachable by it.
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

// short keeps what a person needs to recognise an id and drops the rest, since
// messages end up in logs and events.
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
