package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	pkcs12 "software.sslmate.com/src/go-pkcs12"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator"
	"github.com/podid-io/podid/internal/emulator/world"
)

const (
	vault    = "https://vault.azure.net"
	issuer   = "https://cluster.example"
	audience = "api://AzureADTokenExchange"
	// theSecret must never be seen in an error.
	theSecret = "s3cret~Value-of.the_application"
)

// apps are the applications of the directory, by name.
func app(name string) string { return world.GUID("app " + name) }

// secrets are the cluster's, as an API server answers for them.
type secrets struct {
	mu    sync.Mutex
	data  map[string]map[string][]byte
	err   error
	reads int
	// next, once, is what the Secret says after the next read.
	next map[string][]byte
}

func (s *secrets) Secret(_ context.Context, namespace, name string) (map[string][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.err != nil {
		return nil, s.err
	}
	data, ok := s.data[namespace+"/"+name]
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
	}
	if s.next != nil {
		s.data[namespace+"/"+name], s.next = s.next, nil
	}
	return data, nil
}

// cluster issues tokens of service accounts.
type cluster struct {
	key   *ecdsa.PrivateKey
	known map[string]bool
	err   error
}

func (c *cluster) BrokerToken(_ context.Context, serviceAccount, audience string) (string, error) {
	if c.err != nil {
		return "", c.err
	}
	if !c.known[serviceAccount] {
		return "", apierrors.NewNotFound(corev1.Resource("serviceaccounts"), serviceAccount)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": issuer, "sub": "system:serviceaccount:podid-brokers:" + serviceAccount, "aud": []string{audience},
		"exp": time.Now().Add(10 * time.Minute).Unix(), "nbf": time.Now().Unix(),
	})
	t.Header["kid"] = "1"
	return t.SignedString(c.key)
}

func (c *cluster) jwks(t *testing.T) string {
	point, err := c.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	coordinate := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"EC","kid":"1","crv":"P-256","x":%q,"y":%q}]}`, coordinate(point[1:33]), coordinate(point[33:]))
}

// directory is an Entra ID on this machine, over TLS, with identities that it
// knows.
type directory struct {
	t        *testing.T
	emulator *emulator.Emulator
	secrets  *secrets
	cluster  *cluster
	config   EntraConfig
	client   *http.Client
}

func newDirectory(t *testing.T, applications ...world.Application) *directory {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := &directory{
		t: t, secrets: &secrets{data: map[string]map[string][]byte{}},
		cluster: &cluster{key: key, known: map[string]bool{"shop.federated": true, "shop.managed": true}},
	}
	doc := world.Default(theSecret)
	doc.Tenants = append(doc.Tenants, world.Tenant{ID: world.GUID("second"), Domain: "second.example"}, world.Tenant{ID: world.GUID("third")})
	trusts := func(name string) []world.FederatedCredential {
		return []world.FederatedCredential{{Issuer: issuer, Subject: "system:serviceaccount:podid-brokers:shop." + name}}
	}
	doc.Applications = append(doc.Applications, applications...)
	doc.Applications = append(doc.Applications,
		world.Application{ClientID: app("federated"), PrincipalID: world.GUID("p"), FederatedCredentials: trusts("federated")})
	doc.Identities[1].FederatedCredentials = trusts("managed")
	doc.Issuers = []world.Issuer{{Issuer: issuer, JWKS: d.cluster.jwks(t)}}
	d.emulator, err = emulator.Start(t.Context(), emulator.Config{
		Dir: t.TempDir(), World: &doc, ARMAddress: "127.0.0.1:0", EntraAddress: "127.0.0.1:0", IMDSAddress: "127.0.0.1:0", ControlAddress: "127.0.0.1:0",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.emulator.Close(context.Background()) })
	ca, err := os.ReadFile(d.emulator.Endpoints().CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	d.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	t.Cleanup(d.client.CloseIdleConnections)
	authority, err := ParseAuthority(d.emulator.Endpoints().Entra)
	if err != nil {
		t.Fatal(err)
	}
	d.config = EntraConfig{Authority: authority, Limiter: open{}, Meter: &meter{}, Operation: "op", UserAgent: "podid-test"}
	return d
}

// source is that for a type, with trust in the directory's certificate.
func (d *directory) source(kind v1.IdentityType) *Entra {
	var e *Entra
	switch kind {
	case v1.ServicePrincipal:
		e = NewClientSecret(d.config, d.secrets)
	case v1.ServicePrincipalCertificate:
		e = NewCertificate(d.config, d.secrets)
	default:
		e = NewFederated(d.config, FederationConfig{Brokers: d.cluster, Namespace: "podid-brokers", Cloud: "AzurePublicCloud"})
	}
	e.client.Transport = d.client.Transport
	return e
}

// principal is an identity of the namespace shop with a Secret of its name.
func (d *directory) principal(kind v1.IdentityType, name string, data map[string]string) *v1.AzureIdentity {
	id := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
		Spec:       v1.AzureIdentitySpec{Type: kind, ClientID: app(name), TenantID: world.DefaultTenant},
	}
	if data != nil {
		id.Spec.ClientPassword.Name = name
		d.secrets.data["shop/"+name] = map[string][]byte{}
		for key, value := range data {
			d.secrets.data["shop/"+name][key] = []byte(value)
		}
	}
	return id
}

// verified are the claims of a token whose signature the directory's published
// keys vouch for.
func (d *directory) verified(t *testing.T, tok *Token) jwt.MapClaims {
	t.Helper()
	var text string
	if err := json.Unmarshal(tok.Fields["access_token"], &text); err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, d.emulator.Endpoints().Entra+"/common/discovery/keys", nil)
	resp, err := d.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []struct{ N, E string } }
	if err := json.Unmarshal(body, &set); err != nil || len(set.Keys) == 0 {
		t.Fatalf("%s: %v", body, err)
	}
	number := func(s string) *big.Int {
		b, _ := base64.RawURLEncoding.DecodeString(s)
		return new(big.Int).SetBytes(b)
	}
	public := &rsa.PublicKey{N: number(set.Keys[0].N), E: int(number(set.Keys[0].E).Int64())}
	c := jwt.MapClaims{}
	if _, err := jwt.ParseWithClaims(text, c, func(*jwt.Token) (any, error) { return public, nil }, jwt.WithValidMethods([]string{"RS256"})); err != nil {
		t.Fatal(err)
	}
	return c
}

// newKey makes a key and a certificate of it, as PEM texts.
func newKey(t *testing.T, key crypto.Signer) (cert *x509.Certificate, certPEM, keyPEM string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "app"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

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
