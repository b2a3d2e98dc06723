// The identities that an ARM error is about.

package compute

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/podid-io/podid/internal/ascii"
)

// identityID matches the resource ID of a user-assigned identity within a sentence, which must be
// in lower case. The name is limited to the characters that Azure allows.
var identityID = regexp.MustCompile(`/subscriptions/[^/\s'",]+/resourcegroups/[^/\s'",]+` +
	`/providers/microsoft\.managedidentity/userassignedidentities/[a-z0-9_-]+`)

// linkedSubscription matches how ARM names the subscription of an identity that is unknown or in
// another tenant. ARM does not name the identity then.
var linkedSubscription = regexp.MustCompile(`(?i)linked subscription '([^'/\s]+)'`)

// named returns the identities that the refusal is about. Those of the request come first, in its
// order. Those that only Azure knows follow, such as one that was deleted while still assigned.
func (r *refusal) named(requested []string) []string {
	if !r.aboutIdentities() {
		return nil
	}
	var bad []string
	for _, id := range requested {
		if mentions(r.message, id) && indexFold(bad, id) < 0 {
			bad = append(bad, id)
		}
	}
	if missing := linkedSubscription.FindStringSubmatch(r.message); missing != nil {
		for _, id := range requested {
			if strings.HasPrefix(ascii.ToLower(id), "/subscriptions/"+ascii.ToLower(missing[1])+"/") && indexFold(bad, id) < 0 {
				bad = append(bad, id)
			}
		}
	}
	for _, at := range identityID.FindAllStringIndex(ascii.ToLower(r.message), mostNamed) {
		if id := r.message[at[0]:at[1]]; indexFold(bad, id) < 0 {
			bad = append(bad, id)
		}
	}
	return bad
}

// mostNamed bounds how many IDs are taken from one message: no request holds more.
const mostNamed = MaxPerPatch

// aboutIdentities reports whether an identity in the request may have caused the refusal. ARM is
// known to name user-assigned identities under these codes:
//
//   - FailedIdentityOperation, IdentityNotFound and similar: it does not exist (any code that
//     contains "identity" counts).
//   - LinkedAuthorizationFailed: it does not exist, or the caller may not assign it. The text is a
//     comma-separated list.
//   - InvalidParameter, BadRequest: "ResourceIdentity identityId '...'" is invalid.
//   - LinkedInvalidPropertyId, InvalidResourceID: not an ARM ID at all.
//   - ResourceNotFound, NotFound: the text names the identity or the machine.
//
// Other codes (quota, conflict, policy) may mention identities that are not at fault.
func (r *refusal) aboutIdentities() bool {
	if r.conflict() || r.status == http.StatusTooManyRequests || r.status >= http.StatusInternalServerError {
		return false
	}
	switch code := ascii.ToLower(r.code); code {
	case "linkedauthorizationfailed", "linkedinvalidpropertyid", "invalidparameter", "badrequest", "invalidresourceid",
		"resourcenotfound", "notfound", "invalidrequestcontent":
		return true
	default:
		return strings.Contains(code, "identity") || strings.Contains(code, "identities")
	}
}

// mentions reports whether the text holds the ID, not merely one that begins with it. Letter case
// does not matter.
func mentions(text, id string) bool {
	if id == "" {
		return false
	}
	text, id = ascii.Loose(text), ascii.Loose(id)
	for {
		at := strings.Index(text, id)
		if at < 0 {
			return false
		}
		text = text[at+len(id):]
		if text == "" || !nameByte(text[0]) {
			return true
		}
	}
}

// nameByte reports whether b can be part of an identity's name (or of a deeper path).
func nameByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '-' || b == '_' || b == '/'
}
