// Claims of a token.

package source

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// Claims are the claims of a token that the agent reads. It does not verify the signature: the
// token came from the authority itself, and its recipient verifies it.
type Claims struct {
	ObjectID  string      `json:"oid"`
	NotBefore json.Number `json:"nbf"`
	ExpiresOn json.Number `json:"exp"`

	// Of a federated identity's assertion, for messages.
	Issuer   string       `json:"iss"`
	Subject  string       `json:"sub"`
	Audience stringOrList `json:"aud"`
}

// ReadClaims returns the zero value for a token that is not a JWT.
func ReadClaims(jwt string) Claims {
	var c Claims
	if !decodeClaims(jwt, &c) {
		return Claims{}
	}
	return c
}

// decodeClaims unmarshals the payload of a JWT and reports whether all of it could be read.
func decodeClaims(jwt string, into any) bool {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	return err == nil && json.Unmarshal(payload, into) == nil
}

// stringOrList is a claim that is a string or a list of strings. A value of another type reads as
// empty.
type stringOrList []string

// UnmarshalJSON never fails, so that one odd claim does not hide the others.
func (s *stringOrList) UnmarshalJSON(data []byte) error {
	var one string
	var many []string
	switch {
	case json.Unmarshal(data, &one) == nil:
		*s = stringOrList{one}
	case json.Unmarshal(data, &many) == nil:
		*s = many
	}
	return nil
}

// epoch reads seconds since 1970. It returns the zero time for anything else.
func epoch(n json.Number) time.Time {
	f, err := n.Float64()
	if err != nil || f < 1 || f > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(f), 0)
}
