// Verification of tokens as by a service without knowledge of the emulator: from the token's issuer
// to its keys.

package emulator_test

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math/big"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// verified finds the issuer's key set by discovery, verifies the token with it and returns its
// claims.
func (a *azure) verified(t *testing.T, text string) jwt.MapClaims {
	t.Helper()
	unverified, _, err := jwt.NewParser().ParseUnverified(text, jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := unverified.Claims.GetIssuer()
	if err != nil {
		t.Fatal(err)
	}
	var discovery struct {
		Issuer string
		Keys   string `json:"jwks_uri"`
	}
	a.get(t, trimSlash(issuer)+"/.well-known/openid-configuration", &discovery)
	if discovery.Issuer != issuer {
		t.Errorf("the discovery document of %s says %s", issuer, discovery.Issuer)
	}
	var set struct{ Keys []struct{ Kid, N, E string } }
	a.get(t, discovery.Keys, &set)
	claims := jwt.MapClaims{}
	_, err = jwt.ParseWithClaims(text, claims, func(token *jwt.Token) (any, error) {
		for _, key := range set.Keys {
			if key.Kid == token.Header["kid"] {
				n, err1 := base64.RawURLEncoding.DecodeString(key.N)
				e, err2 := base64.RawURLEncoding.DecodeString(key.E)
				return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, errors.Join(err1, err2)
			}
		}
		return nil, errors.New("no such key")
	}, jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired(), jwt.WithIssuer(issuer))
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

func trimSlash(s string) string {
	if s[len(s)-1] == '/' {
		return s[:len(s)-1]
	}
	return s
}
