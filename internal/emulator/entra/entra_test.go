package entra_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/world"
)

var keys = sync.OnceValues(entra.GenerateKeys)

const (
	base   = "https://login.example"
	v1     = "/" + world.DefaultTenant + "/oauth2/token"
	v2     = "/" + world.DefaultTenant + "/oauth2/v2.0/token"
	client = world.DefaultApplication
)

// directory is an Entra ID without a network, on a stopped clock.
type directory struct {
	t       testing.TB
	now     time.Time
	tokens  *entra.Tokens
	handler *entra.Handler
}

func newDirectory(t testing.TB, change func(*world.Document)) *directory {
	t.Helper()
	d := &directory{t: t, now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	doc := world.Default("s3cret")
	if change != nil {
		change(&doc)
	}
	signing, err := keys()
	if err != nil {
		t.Fatal(err)
	}
	w, err := world.New(doc, func() time.Time { return d.now })
	if err != nil {
		t.Fatal(err)
	}
	d.tokens = entra.NewTokens(signing, w, base)
	d.handler = entra.NewHandler(w, d.tokens)
	return d
}

func (d *directory) do(method, path string, form url.Values) (int, map[string]any) {
	d.t.Helper()
	r := httptest.NewRequestWithContext(d.t.Context(), method, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	var body map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		d.t.Fatalf("%s: %q: %v", path, w.Body, err)
	}
	return w.Code, body
}

func (d *directory) post(path string, form url.Values) (int, map[string]any) {
	d.t.Helper()
	return d.do(http.MethodPost, path, form)
}

// form returns a valid request with some fields changed; an empty value removes the field.
func form(pairs ...string) url.Values {
	f := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {"s3cret"},
		"scope": {"https://vault.azure.net/.default"}, "resource": {"https://vault.azure.net"},
	}
	for i := 0; i < len(pairs); i += 2 {
		if f.Del(pairs[i]); pairs[i+1] != "" {
			f.Set(pairs[i], pairs[i+1])
		}
	}
	return f
}

func claims(t *testing.T, body map[string]any) jwt.MapClaims {
	t.Helper()
	text, _ := body["access_token"].(string)
	c := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(text, c); err != nil {
		t.Fatalf("%v: %v", body, err)
	}
	return c
}

func TestAnswerForms(t *testing.T) {
	d := newDirectory(t, nil)
	status, body := d.post(v1, form())
	delete(body, "access_token")
	want := map[string]any{
		"token_type": "Bearer", "expires_in": "4500", "ext_expires_in": "4500", "expires_on": "1795180500",
		"not_before": "1795176000", "resource": "https://vault.azure.net",
	}
	if diff := cmp.Diff(want, body); diff != "" || status != 200 {
		t.Errorf("v1: %d (-want +got):\n%s", status, diff)
	}
	status, body = d.post(v2, form())
	got := claims(t, body)
	delete(body, "access_token")
	want = map[string]any{"token_type": "Bearer", "expires_in": 4500.0, "ext_expires_in": 4500.0}
	if diff := cmp.Diff(want, body); diff != "" || status != 200 {
		t.Errorf("v2: %d (-want +got):\n%s", status, diff)
	}
	for _, random := range []string{"aio", "uti", "rh"} {
		delete(got, random)
	}
	wantClaims := jwt.MapClaims{
		"aud": "https://vault.azure.net", "iss": base + "/" + world.DefaultTenant + "/", "idp": base + "/" + world.DefaultTenant + "/",
		"iat": 1795176000.0, "nbf": 1795176000.0, "exp": 1795180500.0, "tid": world.DefaultTenant, "ver": "1.0", "idtyp": "app",
		"oid": "66666666-6666-4666-8666-666666666666", "sub": "66666666-6666-4666-8666-666666666666",
		"appid": client, "appidacr": "1",
	}
	if diff := cmp.Diff(wantClaims, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name, path string
		form       url.Values
		status     int
		kind       string
		code       int
	}{
		{"no grant", v2, form("grant_type", ""), 400, "invalid_request", 900144},
		{"other grant", v2, form("grant_type", "password"), 400, "unsupported_grant_type", 70003},
		{"no client", v2, form("client_id", ""), 400, "invalid_request", 900144},
		{"unknown client", v2, form("client_id", world.GUID("x")), 400, "unauthorized_client", 700016},
		{"client of another tenant", "/99999999-9999-4999-8999-999999999999/oauth2/v2.0/token", form(), 400, "unauthorized_client", 700016},
		{"unknown tenant", "/nobody/oauth2/v2.0/token", form(), 400, "invalid_request", 90002},
		{"common", "/common/oauth2/v2.0/token", form(), 400, "invalid_request", 90130},
		{"no secret", v2, form("client_secret", ""), 401, "invalid_client", 7000216},
		{"wrong secret", v2, form("client_secret", "x"), 401, "invalid_client", 7000215},
		{"expired secret", v2, form("client_id", world.GUID("old")), 401, "invalid_client", 7000222},
		{"secret of one without", v2, form("client_id", world.GUID("bare"), "client_secret", "x"), 401, "invalid_client", 7000215},
		{"no scope", v2, form("scope", ""), 400, "invalid_request", 900144},
		{"scope without default", v2, form("scope", "https://vault.azure.net/read"), 400, "invalid_scope", 1002012},
		{"bare default", v2, form("scope", "/.default"), 400, "invalid_scope", 1002012},
		{"two scopes", v2, form("scope", "a/.default b/.default"), 400, "invalid_scope", 70011},
		{"no resource", v1, form("resource", ""), 400, "invalid_request", 900144},
		{"malformed resource", v1, form("resource", "https://x y"), 400, "invalid_resource", 50001},
		{"malformed assertion", v2, assertion("x"), 401, "invalid_client", 50027},
		{"assertion of no kind", v2, form("client_assertion", "x"), 400, "invalid_request", 900144},
		{"nothing there", "/" + world.DefaultTenant + "/nothing", form(), 405, "invalid_request", 900561},
	}
	d := newDirectory(t, func(d *world.Document) {
		past := time.Date(2026, 11, 20, 11, 0, 0, 0, time.UTC)
		d.Tenants = append(d.Tenants, world.Tenant{ID: "99999999-9999-4999-8999-999999999999"})
		d.Applications = append(d.Applications,
			world.Application{ClientID: world.GUID("old"), PrincipalID: world.GUID("p"), Secret: "s3cret", SecretExpires: &past},
			world.Application{ClientID: world.GUID("bare"), PrincipalID: world.GUID("p")})
	})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			status, body := d.post(test.path, test.form)
			description, _ := body["error_description"].(string)
			if status != test.status || body["error"] != test.kind || !strings.HasPrefix(description, fmt.Sprintf("AADSTS%d: ", test.code)) {
				t.Errorf("%d %v", status, body)
			}
			for _, field := range []string{"error_codes", "timestamp", "trace_id", "correlation_id"} {
				if body[field] == nil {
					t.Errorf("no %s in %v", field, body)
				}
			}
			if strings.Contains(description, "s3cret") {
				t.Errorf("the secret is in %q", description)
			}
		})
	}
	if status, _ := d.do(http.MethodGet, v2, nil); status != 405 {
		t.Errorf("GET of the token endpoint: %d", status)
	}
}

func TestAudience(t *testing.T) {
	api := world.GUID("api")
	d := newDirectory(t, func(d *world.Document) {
		d.Resources = []string{"https://vault.azure.net", "https://management.azure.com/"}
		d.Applications = append(d.Applications, world.Application{ClientID: api, PrincipalID: world.GUID("p"), AccessTokenVersion: 2})
	})
	tests := []struct {
		scope, aud, ver string // aud empty: refused
	}{
		{"https://vault.azure.net/.default", "https://vault.azure.net", "1.0"},
		{"https://management.azure.com//.default openid profile offline_access", "https://management.azure.com/", "1.0"},
		{"https://management.azure.com/.default", "https://management.azure.com", "1.0"},
		{"api://" + api + "/.default", api, "2.0"},
		{api + "/.default", api, "2.0"},
		{"https://other.example/.default", "", ""},
	}
	for _, test := range tests {
		_, body := d.post(v2, form("scope", test.scope))
		if test.aud == "" {
			if body["error"] != "invalid_resource" {
				t.Errorf("%s: %v", test.scope, body)
			}
			continue
		}
		c := claims(t, body)
		if c["aud"] != test.aud || c["ver"] != test.ver || (c["azp"] == client) != (test.ver == "2.0") {
			t.Errorf("%s: %v", test.scope, c)
		}
	}
}

func assertion(text string) url.Values {
	return form("client_secret", "", "client_assertion", text,
		"client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
}

// sign returns an assertion; the pairs change the header ("h.") or claims.
func (d *directory) sign(method jwt.SigningMethod, key any, c jwt.MapClaims, header map[string]any) string {
	d.t.Helper()
	token := jwt.NewWithClaims(method, c)
	maps.Copy(token.Header, header)
	text, err := token.SignedString(key)
	if err != nil {
		d.t.Fatal(err)
	}
	return text
}

func TestCertificate(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "app"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	thumbprint := base64.RawURLEncoding.EncodeToString(sum[:])
	d := newDirectory(t, func(d *world.Document) {
		d.Applications[0].Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	})
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := func(change func(jwt.MapClaims)) jwt.MapClaims {
		c := jwt.MapClaims{
			"iss": client, "sub": client, "aud": base + v2, "exp": d.now.Add(time.Minute).Unix(), "nbf": d.now.Unix(), "jti": "1",
		}
		if change != nil {
			change(c)
		}
		return c
	}
	rs, x5t := jwt.SigningMethodRS256, map[string]any{"x5t#S256": thumbprint}
	tests := []struct {
		name, text string
		code       int // 0: a token
	}{
		{"RS256", d.sign(rs, key, good(nil), x5t), 0},
		{"PS256", d.sign(jwt.SigningMethodPS256, key, good(nil), x5t), 0},
		{"audience of v1", d.sign(rs, key, good(func(c jwt.MapClaims) { c["aud"] = base + v1 }), x5t), 0},
		{"audience by domain", d.sign(rs, key, good(func(c jwt.MapClaims) { c["aud"] = base + "/emulated.onmicrosoft.com/oauth2/v2.0/token" }), x5t), 0},
		{"no thumbprint", d.sign(rs, key, good(nil), nil), 700027},
		{"other key", d.sign(rs, other, good(nil), x5t), 700027},
		{"other thumbprint", d.sign(rs, key, good(nil), map[string]any{"x5t#S256": "x"}), 700027},
		{"other audience", d.sign(rs, key, good(func(c jwt.MapClaims) { c["aud"] = "https://login.microsoftonline.com" }), x5t), 700023},
		{"other subject", d.sign(rs, key, good(func(c jwt.MapClaims) { c["sub"] = "x" }), x5t), 700021},
		{"expired", d.sign(rs, key, good(func(c jwt.MapClaims) { c["exp"] = d.now.Add(-10 * time.Minute).Unix() }), x5t), 700024},
		{"HMAC with the certificate", d.sign(jwt.SigningMethodHS256, der, good(nil), x5t), 700027},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			status, body := d.post(v2, assertion(test.text))
			if test.code == 0 {
				if c := claims(t, body); status != 200 || c["appidacr"] != "2" {
					t.Errorf("%d %v", status, c)
				}
				return
			}
			description, _ := body["error_description"].(string)
			if !strings.HasPrefix(description, fmt.Sprintf("AADSTS%d:", test.code)) {
				t.Errorf("%d %v", status, body)
			}
		})
	}
}

func TestFederated(t *testing.T) {
	const issuer, subject = "https://kubernetes.example", "system:serviceaccount:default:demo"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	set := fmt.Sprintf(`{"keys":[{"kty":"oct","k":"x"},{"kty":"EC","kid":"1","crv":"P-256","x":%q,"y":%q}]}`,
		base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:]))
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, []byte(set), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(set)) }))
	defer server.Close()
	for place, source := range map[string]world.Issuer{
		"text": {JWKS: set}, "file": {JWKSFile: file}, "url": {JWKSURL: server.URL},
	} {
		source.Issuer = issuer
		d := newDirectory(t, func(d *world.Document) {
			d.Issuers = []world.Issuer{source, {Issuer: "https://lost.example", JWKSFile: file + ".gone"}}
			trusted := []world.FederatedCredential{
				{Issuer: issuer, Subject: subject},
				{Issuer: "https://lost.example", Subject: subject},
				{Issuer: "https://stranger.example", Subject: subject},
			}
			d.Applications[0].FederatedCredentials = trusted
			d.Identities[1].FederatedCredentials = trusted
		})
		mint := func(iss, sub, aud string, exp time.Duration) string {
			return d.sign(jwt.SigningMethodES256, key, jwt.MapClaims{"iss": iss, "sub": sub, "aud": []string{aud}, "exp": d.now.Add(exp).Unix()},
				map[string]any{"kid": "1"})
		}
		const aud = "api://AzureADTokenExchange"
		tests := []struct {
			name, text string
			code       int
		}{
			{"good", mint(issuer, subject, aud, time.Hour), 0},
			{"subject", mint(issuer, subject+"2", aud, time.Hour), 700213},
			{"audience", mint(issuer, subject, "x", time.Hour), 700212},
			{"issuer", mint("https://x.example", subject, aud, time.Hour), 700211},
			{"unknown keys", mint("https://stranger.example", subject, aud, time.Hour), 50166},
			{"unreadable keys", mint("https://lost.example", subject, aud, time.Hour), 50166},
			{"expired", mint(issuer, subject, aud, -time.Hour), 700024},
			{"forged", mint(issuer, subject, aud, time.Hour) + "x", 700027},
		}
		for _, test := range tests {
			t.Run(place+" "+test.name, func(t *testing.T) {
				status, body := d.post(v2, assertion(test.text))
				description, _ := body["error_description"].(string)
				if (test.code == 0) != (status == 200) || (test.code != 0 && !strings.HasPrefix(description, fmt.Sprintf("AADSTS%d:", test.code))) {
					t.Errorf("%d %v", status, body)
				}
			})
		}
		identity := assertion(tests[0].text)
		identity.Set("client_id", "44444444-4444-4444-8444-444444440001")
		_, body := d.post(v2, identity)
		if c := claims(t, body); !strings.HasSuffix(fmt.Sprint(c["xms_mirid"]), "/demo-identity") {
			t.Errorf("a managed identity by federation: %v", c)
		}
	}
}

func TestDiscovery(t *testing.T) {
	d := newDirectory(t, nil)
	tests := []struct{ path, key, want string }{
		{
			"/common/discovery/instance?api-version=1.1&authorization_endpoint=https%3A%2F%2Flogin.example%2F" + world.DefaultTenant +
				"%2Foauth2%2Fv2.0%2Fauthorize",
			"tenant_discovery_endpoint", base + "/" + world.DefaultTenant + "/v2.0/.well-known/openid-configuration",
		},
		{"/common/discovery/instance", "error", "invalid_request"},
		{"/common/v2.0/.well-known/openid-configuration", "issuer", base + "/{tenantid}/v2.0"},
		{"/emulated.onmicrosoft.com/v2.0/.well-known/openid-configuration", "issuer", base + "/" + world.DefaultTenant + "/v2.0"},
		{"/" + world.DefaultTenant + "/.well-known/openid-configuration", "token_endpoint", base + v1},
		{"/nobody/v2.0/.well-known/openid-configuration", "error", "invalid_request"},
		{"/nobody/discovery/v2.0/keys", "error", "invalid_request"},
		{"/", "error", "invalid_request"},
	}
	for _, test := range tests {
		if _, body := d.do(http.MethodGet, test.path, nil); body[test.key] != test.want {
			t.Errorf("%s: %s is %v, want %s", test.path, test.key, body[test.key], test.want)
		}
	}
}

// TestKeysKept writes a key and reads it again.
func TestKeysKept(t *testing.T) {
	first, err := keys()
	if err != nil {
		t.Fatal(err)
	}
	text, err := first.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := entra.ParseKeys(text); err != nil {
		t.Error(err)
	}
	if _, err := entra.ParseKeys([]byte("x")); err == nil {
		t.Error("garbage was read as a key")
	}
}

// FuzzToken: no form causes a panic, and none without the secret gets a token.
func FuzzToken(f *testing.F) {
	f.Add(form("client_secret", "x").Encode())
	f.Add(assertion("eyJhbGciOiJub25lIn0.eyJpc3MiOiIzMzMzMzMzMy0zMzMzLTQzMzMtODMzMy0zMzMzMzMzMzMzMzMifQ.").Encode())
	d := newDirectory(f, nil)
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, v2, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		if w.Code == 200 && !strings.Contains(body, "s3cret") {
			t.Errorf("a token for %q", body)
		}
	})
}
