// What a token says of itself.

package token

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// claims are the few claims of a token that the agent looks at, besides those that name its
// subject. Nothing is decided by them that would call for a check of the signature: the token
// came from the source, and its recipient checks it.
type claims struct {
	ObjectID  string      `json:"oid"`
	NotBefore json.Number `json:"nbf"`
	ExpiresOn json.Number `json:"exp"`

	// Of an assertion, for messages.
	Issuer   string       `json:"iss"`
	Subject  string       `json:"sub"`
	Audience stringOrMany `json:"aud"`
}

// stringOrMany is a claim that is a string or a list of them; anything else is
// nothing.
type stringOrMany []string

// UnmarshalJSON never fails: the rest of the claims counts all the same.
func (s *stringOrMany) UnmarshalJSON(data []byte) error {
	var one string
	var many []string
	switch {
	case json.Unmarshal(data, &one) == nil:
		*s = stringOrMany{one}
	case json.Unmarshal(data, &many) == nil:
		*s = many
	}
	return nil
}

// readClaims returns what can be read, and zero values for a token that is no JWT.
func readClaims(jwt string) claims {
	var c claims
	if !decodeClaims(jwt, &c) {
		return claims{}
	}
	return c
}

// decodeClaims unmarshals the payload of a JWT. It reports whether all of it could be read.
func decodeClaims(jwt string, into any) bool {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	return err == nil && json.Unmarshal(payload, into) == nil
}

// epoch reads seconds since 1970, zero time when it is none.
func epoch(n json.Number) time.Time {
	f, err := n.Float64()
	if err != nil || f < 1 || f > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(f), 0)
}
