// The ARM resource ID of a user-assigned managed identity.

package identity

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/podid-io/podid/internal/ascii"
)

// ResourceIDShape is the form of a resource ID, for messages.
const ResourceIDShape = "/subscriptions/<GUID>/resourceGroups/<group>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>"

// Longest names Azure allows:
// https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules
const (
	maxResourceGroup = 90
	maxIdentityName  = 128
	// maxResourceID is generous: the fixed words are 101 bytes, and a letter of a group's name is at
	// most 4 bytes.
	maxResourceID = 1024
)

// ResourceID is the parsed ARM resource ID of a user-assigned managed identity. Azure ignores the
// case of every part, so compare Keys, not ResourceIDs. The zero value is not a resource ID.
//
// Keys ignore the case of ASCII letters only. Azure probably treats resource groups É and é as one
// group. AzureIdentities that spell it differently are two identities to podid, each with its own
// quarantine and ledger entry, but one on the node group. compute.Identities.Respelled finds both
// in Azure's responses.
type ResourceID struct {
	SubscriptionID, ResourceGroup, Name string

	raw string
}

// String returns the ID as it was given.
func (r ResourceID) String() string { return r.raw }

// Key returns the ID in canonical lower case. Two IDs name the same identity exactly when their
// Keys are equal.
func (r ResourceID) Key() string { return ascii.ToLower(r.raw) }

// ParseResourceID parses the resource ID of a user-assigned managed identity. The fixed words may
// be in any case. The error message has the cause and the expected form.
func ParseResourceID(s string) (ResourceID, error) {
	id, problem := parseResourceID(s)
	if problem != "" {
		return ResourceID{}, fmt.Errorf("%s: want %s", problem, ResourceIDShape)
	}
	return id, nil
}

func parseResourceID(s string) (_ ResourceID, problem string) {
	switch {
	case s == "":
		return ResourceID{}, "resource ID is empty"
	case len(s) > maxResourceID:
		return ResourceID{}, fmt.Sprintf("resource ID is %d bytes long", len(s))
	}
	parts, ok := split(s)
	if !ok {
		return ResourceID{}, fmt.Sprintf("%q is not the resource ID of a user-assigned identity", s)
	}
	for i := range parts {
		if want := fixedWord(i); want != "" && !ascii.EqualFold(parts[i], want) {
			return ResourceID{}, fmt.Sprintf("%q has %q where %q belongs", s, parts[i], want)
		}
	}
	id := ResourceID{SubscriptionID: parts[2], ResourceGroup: parts[4], Name: parts[8], raw: s}
	switch {
	case !isGUID(id.SubscriptionID):
		return ResourceID{}, fmt.Sprintf("%q: subscription %q is not a GUID", s, id.SubscriptionID)
	case strings.ContainsFunc(id.ResourceGroup, ascii.FoldsToASCII):
		return ResourceID{}, fmt.Sprintf("%+q: resource group has a letter that imitates a plain one", s)
	case !isResourceGroup(id.ResourceGroup):
		return ResourceID{}, fmt.Sprintf("%q: %q is not the name of a resource group", s, id.ResourceGroup)
	case !isIdentityName(id.Name):
		return ResourceID{}, fmt.Sprintf("%q: %q is not the name of a user-assigned identity", s, id.Name)
	}
	return id, ""
}

// split splits the ID at its slashes: "", subscriptions, GUID, resourceGroups, group, providers,
// namespace, type, name. It does not allocate, because the agent checks an identity for every
// request.
func split(s string) (parts [9]string, ok bool) {
	last := len(parts) - 1
	for i := range last {
		if parts[i], s, ok = strings.Cut(s, "/"); !ok {
			return parts, false
		}
	}
	parts[last] = s
	return parts, parts[0] == "" && !strings.Contains(s, "/")
}

// fixedWord returns the required word at an index of the split ID, "" if any value is valid there.
func fixedWord(place int) string {
	switch place {
	case 1:
		return "subscriptions"
	case 3:
		return "resourceGroups"
	case 5:
		return "providers"
	case 6:
		return "Microsoft.ManagedIdentity"
	case 7:
		return "userAssignedIdentities"
	default:
		return ""
	}
}

// isGUID reports whether s is a GUID in the plain form: 8-4-4-4-12 hexadecimal digits.
func isGUID(s string) bool {
	const length = 36
	if len(s) != length {
		return false
	}
	for i := range length {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if !isHex(s[i]) {
				return false
			}
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// isResourceGroup reports whether s has only letters, marks and digits of any script, and
// -_.() but no dot at the end.
func isResourceGroup(s string) bool {
	if s == "" || utf8.RuneCountInString(s) > maxResourceGroup || strings.HasSuffix(s, ".") {
		return false
	}
	for _, r := range s {
		if !unicode.In(r, unicode.L, unicode.M, unicode.Nd) && !strings.ContainsRune("-_.()", r) {
			return false
		}
	}
	return true
}

// isIdentityName reports whether s has only ASCII letters, digits, - and _, and starts with a
// letter or digit.
func isIdentityName(s string) bool {
	if s == "" || len(s) > maxIdentityName {
		return false
	}
	for i := range len(s) {
		c := s[i] | 0x20 // lower case, for letters
		alnum := 'a' <= c && c <= 'z' || '0' <= s[i] && s[i] <= '9'
		if !alnum && (i == 0 || s[i] != '-' && s[i] != '_') {
			return false
		}
	}
	return true
}
