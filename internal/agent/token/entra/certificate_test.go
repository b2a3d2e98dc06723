package entra

import (
	"crypto"
	"crypto/elliptic"
	"encoding/base64"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/podid-io/podid/internal/agent/token/keyfile"
	"github.com/podid-io/podid/internal/agent/token/keyfile/keyfiletest"
)

// TestAssertions checks the algorithm, the headers and the claims of assertions.
func TestAssertions(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	entraID, oldADFS := endpoint{url: "https://login.example/t/oauth2/v2.0/token"}, endpoint{url: "https://adfs.example/adfs/oauth2/token", adfs: true}
	tests := []struct {
		name string
		key  crypto.Signer
		at   endpoint
		alg  string
	}{
		{"RSA", keyfiletest.RSA(t), entraID, "PS256"},
		{"RSA, ADFS", keyfiletest.RSA(t), oldADFS, "RS256"},
		{"P-256", keyfiletest.EC(t, elliptic.P256()), entraID, "ES256"},
		{"P-384", keyfiletest.EC(t, elliptic.P384()), entraID, "ES384"},
		{"P-521", keyfiletest.EC(t, elliptic.P521()), entraID, "ES512"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert, certPEM, keyPEM := keyfiletest.Certificate(t, tt.key)
			_, otherPEM, _ := keyfiletest.Certificate(t, keyfiletest.EC(t, elliptic.P256()))
			pair, err := keyfile.NewParser(fileLimiter{}).Parse(t.Context(), "ns", []byte(certPEM+otherPEM+keyPEM), "")
			if err != nil {
				t.Fatal(err)
			}
			form := map[string][]string{}
			if err := (keyPair{pair}).sign(form, tt.at, "the-client", now); err != nil {
				t.Fatal(err)
			}
			c := jwt.MapClaims{}
			token, err := jwt.ParseWithClaims(form["client_assertion"][0], c, func(*jwt.Token) (any, error) { return cert.PublicKey, nil },
				jwt.WithValidMethods([]string{tt.alg}), jwt.WithTimeFunc(func() time.Time { return now }))
			if err != nil {
				t.Fatal(err)
			}
			x5c, _ := token.Header["x5c"].([]any)
			if len(x5c) != 2 || x5c[0] != base64.StdEncoding.EncodeToString(cert.Raw) {
				t.Errorf("x5c has %d certificates", len(x5c))
			}
			if (token.Header["x5t"] != nil) != tt.at.adfs || (token.Header["x5t#S256"] != nil) == tt.at.adfs {
				t.Errorf("header %v", token.Header)
			}
			if c["aud"] != tt.at.url || c["iss"] != "the-client" || c["sub"] != "the-client" || c["jti"] == "" || c["exp"] != float64(now.Add(10*time.Minute).Unix()) {
				t.Errorf("claims %v", c)
			}
		})
	}
}
