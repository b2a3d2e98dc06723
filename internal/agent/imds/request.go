// Reading a request for a token: its path, header and parameters.

package imds

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/reason"
)

// TokenRequest is a valid token request.
type TokenRequest struct {
	APIVersion string
	// Resource is what the token is for, byte for byte as requested: one slash more or less changes
	// the token's audience.
	Resource string
	// At most one of these is set. None: the agent chooses the identity.
	ClientID, ObjectID, ResourceID string
	// Revoked is the hexadecimal SHA-256 of a token that the client knows to be revoked (MSAL's
	// token_sha256_to_refresh), or "".
	Revoked string
}

// Bounds of a request. Real ones need less than a tenth.
const (
	maxQuery  = 8 << 10
	maxParams = 32
	maxValue  = 2 << 10
)

// param is a parameter of the token path.
type param int

const (
	paramUnknown param = iota
	paramAPIVersion
	paramResource
	paramClientID
	paramObjectID
	paramResourceID
	paramRevoked
)

// paramOf returns the parameter of a name, which compares in any case as in the real service. Both
// msi_res_id and mi_res_id are in use, msi-res-id is sent by one client's probe, and MSAL calls the
// object ID principal_id. A selector that is overlooked would select the wrong identity.
func paramOf(name string) param {
	switch ascii.ToLower(name) {
	case "api-version":
		return paramAPIVersion
	case "resource":
		return paramResource
	case "client_id":
		return paramClientID
	case "object_id", "principal_id":
		return paramObjectID
	case "msi_res_id", "mi_res_id", "msi-res-id":
		return paramResourceID
	case "token_sha256_to_refresh":
		return paramRevoked
	default:
		return paramUnknown
	}
}

// ParseTokenRequest reads the raw query of a token request. It refuses an invalid one with status
// 400. It ignores unknown parameters, but none may occur twice. A selector without a value counts
// as absent.
func ParseTokenRequest(rawQuery string) (TokenRequest, *reason.Refusal) {
	q, refusal := parse(rawQuery)
	if refusal == nil {
		refusal = q.check()
	}
	return q, refusal
}

// ParseHostRequest reads the raw query of a request to HostTokenPath. Unlike a token request it
// needs no api-version, which v1.8.17's clients do not send there.
func ParseHostRequest(rawQuery string) (TokenRequest, *reason.Refusal) {
	q, refusal := parse(rawQuery)
	if refusal == nil && q.APIVersion == "" {
		q.APIVersion = "2018-02-01"
	}
	if refusal == nil {
		refusal = q.check()
	}
	return q, refusal
}

func parse(rawQuery string) (TokenRequest, *reason.Refusal) {
	var q TokenRequest
	if len(rawQuery) > maxQuery {
		return q, reason.BadQuery.Refuse("the query is too long")
	}
	var names [maxParams]string
	n := 0
	for rest := rawQuery; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		if pair == "" {
			continue
		}
		name, value, refusal := unescapePair(pair)
		if refusal != nil {
			return q, refusal
		}
		if n == maxParams {
			return q, reason.BadQuery.Refuse("the query has too many parameters")
		}
		for _, earlier := range names[:n] {
			if ascii.EqualFold(earlier, name) {
				return q, reason.BadQuery.Refuse("parameter %s is specified more than once", printable(name))
			}
		}
		names[n] = name
		n++
		if refusal := q.set(paramOf(name), value); refusal != nil {
			return q, refusal
		}
	}
	return q, nil
}

func unescapePair(pair string) (name, value string, refusal *reason.Refusal) {
	name, value, _ = strings.Cut(pair, "=")
	name, errName := url.QueryUnescape(name)
	value, errValue := url.QueryUnescape(value)
	if errName != nil || errValue != nil {
		return "", "", reason.BadQuery.Refuse("the query has an invalid escape")
	}
	if len(value) > maxValue {
		return "", "", reason.BadQuery.Refuse("parameter %s is too long", printable(name))
	}
	return name, value, nil
}

func (q *TokenRequest) set(p param, value string) *reason.Refusal {
	switch p {
	case paramUnknown:
		return nil
	case paramAPIVersion:
		q.APIVersion = value
		return nil
	case paramResource:
		q.Resource = value
		return nil
	case paramRevoked:
		if isSHA256(value) { // anything else matches no token
			q.Revoked = value
		}
		return nil
	}
	if value == "" {
		return nil
	}
	if q.ClientID+q.ObjectID+q.ResourceID != "" {
		return reason.BadQuery.Refuse("only one of client_id, object_id and msi_res_id may be specified")
	}
	switch p {
	case paramClientID:
		q.ClientID = value
	case paramObjectID:
		q.ObjectID = value
	default:
		q.ResourceID = value
	}
	return nil
}

func (q *TokenRequest) check() *reason.Refusal {
	switch {
	case q.APIVersion == "":
		return reason.BadQuery.Refuse("api-version was not specified in the request: use 2018-02-01")
	case !isDate(q.APIVersion):
		return reason.BadQuery.Refuse("api-version is not a date: use 2018-02-01")
	case q.Resource == "":
		return reason.BadQuery.Refuse("the required parameter resource is missing")
	case !clean(q.Resource):
		return reason.BadResource.Refuse("resource has characters that no resource has")
	case !clean(q.ClientID + q.ObjectID + q.ResourceID):
		return reason.BadQuery.Refuse("the identity's id has characters that no id has")
	}
	return nil
}

// isDate reports whether a version is yyyy-mm-dd, with an optional suffix such as -preview. It
// accepts unknown versions.
func isDate(s string) bool {
	if len(s) > 10 && s[10] == '-' && plain(s) {
		s = s[:10]
	}
	if len(s) != 10 {
		return false
	}
	for i := range len(s) {
		if dash := i == 4 || i == 7; dash != (s[i] == '-') || !dash && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return true
}

func isSHA256(s string) bool {
	sum, err := hex.DecodeString(s)
	return err == nil && len(sum) == sha256.Size
}

// clean reports whether a value can be returned in JSON and sent on unchanged.
func clean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// printable returns a parameter's name for a message, short and harmless.
func printable(name string) string {
	const most = 32
	if len(name) > most || !clean(name) {
		return "in the query"
	}
	return name
}
