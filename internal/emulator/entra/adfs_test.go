package entra_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/podid-io/podid/internal/emulator/world"
)

func TestADFS(t *testing.T) {
	const path, id = "/adfs/oauth2/token", "77777777-7777-4777-8777-777777777777"
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "app"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	d := newDirectory(t, func(d *world.Document) {
		d.Applications = append(d.Applications, world.Application{
			ClientID: id, PrincipalID: world.GUID("p"), TenantID: world.TenantADFS, Secret: "s3cret",
			Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		})
	})
	sum := sha1.Sum(der)
	x5t := map[string]any{"x5t": base64.RawURLEncoding.EncodeToString(sum[:])}
	signed := func(method jwt.SigningMethod, audience string, header map[string]any) url.Values {
		f := assertion(d.sign(method, key, jwt.MapClaims{
			"iss": id, "sub": id, "aud": audience, "exp": d.now.Add(time.Minute).Unix(), "nbf": d.now.Unix(), "jti": "1",
		}, header))
		f.Set("client_id", id)
		return f
	}
	tests := []struct {
		name string
		form url.Values
		kind string // of the error, "" for a token
	}{
		{"secret", form("client_id", id), ""},
		{"certificate", signed(jwt.SigningMethodRS256, base+path, x5t), ""},
		{"PSS", signed(jwt.SigningMethodPS256, base+path, x5t), "invalid_client"},
		{"no thumbprint", signed(jwt.SigningMethodRS256, base+path, nil), "invalid_client"},
		{"audience of Entra ID", signed(jwt.SigningMethodRS256, base+v1, x5t), "invalid_client"},
		{"wrong secret", form("client_id", id, "client_secret", "x"), "invalid_client"},
		{"application of Entra ID", form(), "invalid_client"},
		{"no resource", form("client_id", id, "resource", ""), "invalid_resource"},
		{"other grant", form("client_id", id, "grant_type", "password"), "invalid_request"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			status, body := d.post(path, test.form)
			if test.kind != "" {
				if text, _ := body["error_description"].(string); status != 400 || body["error"] != test.kind || !strings.HasPrefix(text, "MSIS") {
					t.Errorf("%d %v", status, body)
				}
				return
			}
			c := claims(t, body)
			if status != 200 || body["expires_in"] != 4500.0 || body["expires_on"] != nil || c["aud"] != "https://vault.azure.net" || c["iss"] != base+"/adfs" {
				t.Errorf("%d %v %v", status, body, c)
			}
			if p, err := d.tokens.Verify(body["access_token"].(string)); err != nil || p.ClientID != id {
				t.Errorf("%+v %v", p, err)
			}
		})
	}
	if status, body := d.post(v2, form("client_id", id)); status != 400 || body["error"] != "unauthorized_client" {
		t.Errorf("an application of ADFS at Entra ID: %d %v", status, body)
	}
	if _, body := d.do(http.MethodGet, "/adfs/.well-known/openid-configuration", nil); body["token_endpoint"] != base+path {
		t.Errorf("discovery: %v", body)
	}
}
