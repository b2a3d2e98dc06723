package token

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
	"github.com/podid-io/podid/internal/emulator/world"
)

// TestEntraStory gets a token for every kind of identity and lets the directory's
// own keys vouch for it.
func TestEntraStory(t *testing.T) {
	rsaCert, rsaPEM, rsaKeyPEM := newKey(t, rsaKey(t))
	_, ecPEM, ecKeyPEM := newKey(t, ecKey(t, elliptic.P384()))
	pfxKey := rsaKey(t)
	pfxCert, pfxPEM, _ := newKey(t, pfxKey)
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
			r := Request{Identity: tt.id, Resource: tt.resource, Caller: "shop/pod"}
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
	got, err := d.source(1).Token(t.Context(), Request{Identity: id, Resource: vault})
	if err != nil {
		t.Fatal(err)
	}
	var tenants []any
	for _, one := range append([]*Token{got}, got.Auxiliary...) {
		tenants = append(tenants, d.verified(t, one)["tid"])
	}
	if diff := cmp.Diff([]any{world.DefaultTenant, third, second}, tenants); diff != "" || d.secrets.reads != 1 {
		t.Errorf("%d reads of the Secret (-want +got):\n%s", d.secrets.reads, diff)
	}

	id.Spec.AuxiliaryTenantIDs = []string{third, world.GUID("nowhere")}
	_, err = d.source(1).Token(t.Context(), Request{Identity: id, Resource: vault})
	if f := failure(t, err); f.Status != 403 || !strings.Contains(f.Message, "no tenant "+world.GUID("nowhere")) {
		t.Errorf("got %v", f)
	}

	// Of a certificate, v1.8.17 asks the identity's own tenant alone.
	id.Spec.Type = v1.ServicePrincipalCertificate
	if tenants := d.source(2).prover.tenants(id); len(tenants) != 1 {
		t.Errorf("tenants of type 2: %v", tenants)
	}
}

func failure(t *testing.T, err error) *Failure {
	t.Helper()
	f, ok := err.(*Failure) //nolint:errorlint // that is what sources promise
	if !ok {
		t.Fatalf("got %v, want a failure", err)
	}
	for _, text := range []string{f.Message, f.Error(), fmt.Sprintf("%+v", *f)} {
		if strings.Contains(text, theSecret) || strings.Contains(text, "eyJ") {
			t.Errorf("the failure says too much: %s", text)
		}
	}
	return f
}
