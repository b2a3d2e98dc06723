package entra

import (
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pkcs12 "software.sslmate.com/src/go-pkcs12"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/keyfile"
	"github.com/podid-io/podid/internal/agent/token/keyfile/keyfiletest"
	"github.com/podid-io/podid/internal/agent/token/source/sourcetest"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/reason"
)

// TestEntra gets a token for every kind of identity and verifies it with the directory's published
// keys.
func TestEntra(t *testing.T) {
	rsaCert, rsaPEM, rsaKeyPEM := keyfiletest.Certificate(t, keyfiletest.RSA(t))
	_, ecPEM, ecKeyPEM := keyfiletest.Certificate(t, keyfiletest.EC(t, elliptic.P384()))
	pfxKey := keyfiletest.RSA(t)
	pfxCert, pfxPEM, _ := keyfiletest.Certificate(t, pfxKey)
	pfx, err := pkcs12.Modern.Encode(pfxKey, pfxCert, []*x509.Certificate{rsaCert}, "pass word")
	if err != nil {
		t.Fatal(err)
	}
	application := func(name, secret, cert string) world.Application {
		return world.Application{ClientID: app(name), PrincipalID: world.GUID("p " + name), Secret: secret, Certificate: cert}
	}
	adfsApp, adfsCert := application("adfs", theSecret, ""), application("adfs-cert", "", rsaPEM)
	adfsApp.TenantID, adfsCert.TenantID = world.TenantADFS, world.TenantADFS
	d := newDirectory(t, application("secret", theSecret, ""), application("rsa", "", rsaPEM), application("ec", "", ecPEM),
		application("pfx", "", pfxPEM), adfsApp, adfsCert)

	with := func(id *v1.AzureIdentity, change func(*v1.AzureIdentitySpec)) *v1.AzureIdentity {
		change(&id.Spec)
		return id
	}
	managed := world.Default("").Identities[1].ClientID
	tests := []struct {
		name     string
		id       *v1.AzureIdentity
		appid    string
		resource string
		tenant   string
	}{
		{name: "secret", id: d.principal(1, "secret", map[string]string{"clientSecret": theSecret, "other": "x"})},
		{name: "secret, byte order mark and blanks", id: d.principal(1, "secret", map[string]string{"clientSecret": "\ufeff" + theSecret + " \r\n"})},
		{name: "PFX, password with a byte order mark", id: d.principal(2, "pfx", map[string]string{"certificate": string(pfx), "password": "\ufeffpass word\r\n"})},
		{name: "secret, slash", id: d.principal(1, "secret", map[string]string{"only": theSecret + "\n"}), resource: "https://management.azure.com/"},
		{name: "secret, GUID", id: d.principal(1, "secret", map[string]string{"clientSecret": theSecret}), resource: world.GUID("api")},
		{name: "tenant by domain", id: with(d.principal(1, "secret", map[string]string{"clientSecret": theSecret}),
			func(s *v1.AzureIdentitySpec) { s.TenantID = "emulated.onmicrosoft.com" })},
		{name: "adEndpoint", id: with(d.principal(1, "secret", map[string]string{"clientSecret": theSecret}),
			func(s *v1.AzureIdentitySpec) { s.ADEndpoint = d.emulator.Endpoints().Entra + "/" })},
		{name: "RSA, PEM", id: d.principal(2, "rsa", map[string]string{"certificate": rsaKeyPEM + rsaPEM})},
		{name: "EC, PEM", id: d.principal(2, "ec", map[string]string{"certificate": ecPEM + ecKeyPEM})},
		{name: "PFX", id: d.principal(2, "pfx", map[string]string{"certificate": string(pfx), "password": "pass word"})},
		{name: "federated", id: d.principal(3, "federated", nil)},
		{name: "managed", appid: managed, id: with(d.principal(3, "managed", nil),
			func(s *v1.AzureIdentitySpec) { s.ClientID = managed })},
		{name: "ADFS", tenant: "adfs", id: with(d.principal(1, "adfs", map[string]string{"clientSecret": theSecret}),
			func(s *v1.AzureIdentitySpec) {
				s.TenantID, s.ADEndpoint = "adfs", d.emulator.Endpoints().Entra+"/adfs"
			})},
		{name: "ADFS, certificate", tenant: "adfs", id: with(d.principal(2, "adfs-cert", map[string]string{"certificate": rsaKeyPEM + rsaPEM}),
			func(s *v1.AzureIdentitySpec) { s.TenantID = "adfs" })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := token.Request{Identity: tt.id, Resource: tt.resource, Caller: "shop/pod"}
			if r.Resource == "" {
				r.Resource = vault
			}
			if tt.appid == "" {
				tt.appid = tt.id.Spec.ClientID
			}
			if tt.tenant == "" {
				tt.tenant = world.DefaultTenant
			}
			got, err := d.source(tt.id.Spec.Type).Token(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			c := d.verified(t, got)
			if c["appid"] != tt.appid || c["aud"] != r.Resource || c["tid"] != tt.tenant || c["oid"] != got.ObjectID {
				t.Errorf("claims %v", c)
			}
			if left := time.Until(got.ExpiresOn); left < time.Hour || left > 2*time.Hour || got.NotBefore.After(time.Now()) {
				t.Errorf("valid from %v to %v", got.NotBefore, got.ExpiresOn)
			}
		})
	}
}

// TestAuxiliaryTenants gets a token of each tenant of a multi-tenant application.
func TestAuxiliaryTenants(t *testing.T) {
	second, third := world.GUID("second"), world.GUID("third")
	d := newDirectory(t, world.Application{
		ClientID: app("multi"), PrincipalID: world.GUID("p"), Secret: theSecret, OtherTenantIDs: []string{second, third},
	})
	id := d.principal(1, "multi", map[string]string{"clientSecret": theSecret})
	id.Spec.AuxiliaryTenantIDs = []string{third, "second.example"}
	got, err := d.source(1).Token(t.Context(), token.Request{Identity: id, Resource: vault})
	if err != nil {
		t.Fatal(err)
	}
	var tenants []any
	for _, one := range append([]*token.Token{got}, got.Auxiliary...) {
		tenants = append(tenants, d.verified(t, one)["tid"])
	}
	if diff := cmp.Diff([]any{world.DefaultTenant, third, second}, tenants); diff != "" || d.secrets.reads != 1 {
		t.Errorf("%d reads of the Secret (-want +got):\n%s", d.secrets.reads, diff)
	}

	id.Spec.AuxiliaryTenantIDs = []string{third, world.GUID("nowhere")}
	_, err = d.source(1).Token(t.Context(), token.Request{Identity: id, Resource: vault})
	if f := failure(t, err); f.Answer().Status != 403 || !strings.Contains(f.Message, "no tenant "+world.GUID("nowhere")) {
		t.Errorf("got %v", f)
	}

	// For a certificate, v1.8.17 uses only the identity's own tenant.
	id.Spec.Type = v1.ServicePrincipalCertificate
	if tenants := d.source(2).proofs.tenants(id); len(tenants) != 1 {
		t.Errorf("tenants of type 2: %v", tenants)
	}
}

// failure returns the failure in an error and checks that it contains no secret.
func failure(t *testing.T, err error) *reason.Refusal {
	t.Helper()
	f := sourcetest.Failure(t, err)
	for _, text := range []string{f.Message, f.Error(), fmt.Sprintf("%+v", *f)} {
		if strings.Contains(text, theSecret) || strings.Contains(text, "eyJ") {
			t.Errorf("the failure has a secret: %s", text)
		}
	}
	return f
}

// TestEndpoints checks the URL and the form of the request.
func TestEndpoints(t *testing.T) {
	tests := []struct{ name, endpoint, tenant, resource, url, param, value string }{
		{"the cloud's", "", "contoso.example", vault, "https://login.example/contoso.example/oauth2/v2.0/token", "scope", vault + "/.default"},
		{"slash kept", "", "t", vault + "/", "https://login.example/t/oauth2/v2.0/token", "scope", vault + "//.default"},
		{"adEndpoint", "https://login.microsoftonline.us/", "t", vault, "https://login.microsoftonline.us/t/oauth2/v2.0/token", "scope", vault + "/.default"},
		{"ADFS", "https://ADFS.local/adfs", "adfs", vault + "/", "https://adfs.local/adfs/oauth2/token", "resource", vault + "/"},
		{"ADFS, slashes", "https://adfs.local/adfs/", "ADFS", vault, "https://adfs.local/adfs/oauth2/token", "resource", vault},
		{"ADFS, bare", "https://adfs.local:8443", "adfs", vault, "https://adfs.local:8443/adfs/oauth2/token", "resource", vault},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			source, o, _, id := newFakeEndpoint(t, v1.ServicePrincipal, minted)
			id.Spec.ADEndpoint, id.Spec.TenantID = tt.endpoint, tt.tenant
			if _, err := source.Token(t.Context(), token.Request{Identity: id, Resource: tt.resource}); err != nil {
				t.Fatal(err)
			}
			form := o.seen[0]
			if o.paths[0] != tt.url || form.Get(tt.param) != tt.value || form.Get("grant_type") != "client_credentials" || form.Get("client_secret") != theSecret {
				t.Errorf("%s %v", o.paths[0], form)
			}
		})
	}
	source, o, _, id := newFakeEndpoint(t, v1.ServicePrincipal, minted)
	_, err := source.Token(t.Context(), token.Request{Identity: id, Resource: vault + "/.default openid"})
	if f := failure(t, err); f.Answer().Status != 400 || len(o.seen) != 0 {
		t.Errorf("a resource with a blank: %v", f)
	}
}

// TestMasks checks that proofs print as masks.
func TestMasks(t *testing.T) {
	_, cert, key := keyfiletest.Certificate(t, keyfiletest.RSA(t))
	pair, err := keyfile.NewParser(fileLimiter{}).Parse(t.Context(), "ns", []byte(cert+key), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []proof{clientSecret(theSecret), assertion("eyJ.a.b"), keyPair{pair}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			if text := fmt.Sprintf(verb, p); !strings.HasPrefix(text, "[") || len(text) > 20 {
				t.Errorf("%T prints as %s", p, text)
			}
		}
	}
}
