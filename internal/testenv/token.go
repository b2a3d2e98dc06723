package testenv

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// Token is what a token of a ServiceAccount claims.
type Token struct {
	Subject    string   `json:"sub"`
	Audiences  []string `json:"aud"`
	Issued     int64    `json:"iat"`
	Expires    int64    `json:"exp"`
	Kubernetes struct {
		Node struct {
			Name string `json:"name"`
		} `json:"node"`
	} `json:"kubernetes.io"`
}

// Life returns how long the token is valid in all.
func (t Token) Life() time.Duration { return time.Duration(t.Expires-t.Issued) * time.Second }

// ParseToken reads the claims of a token without verifying it.
func ParseToken(t testing.TB, jwt string) Token {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("the token has %d parts", len(parts))
	}
	var token Token
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(text, &token)
	}
	if err != nil {
		t.Fatalf("read the token's claims: %v", err)
	}
	return token
}
