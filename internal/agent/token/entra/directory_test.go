package entra

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/keyfile"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/agent/token/source/sourcetest"
	"github.com/podid-io/podid/internal/emulator"
	"github.com/podid-io/podid/internal/emulator/world"
)

const (
	vault    = "https://vault.azure.net"
	issuer   = "https://cluster.example"
	audience = "api://AzureADTokenExchange"
	// theSecret must not appear in an error.
	theSecret = "s3cret~Value-of.the_application"
)

// app returns the client ID of an application of the directory.
func app(name string) string { return world.GUID("app " + name) }

// secrets are those of the cluster.
type secrets struct {
	mu    sync.Mutex
	data  map[string]map[string][]byte
	err   error
	reads int
	// next replaces the Secret after the next read.
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

// directory is an emulated Entra ID over TLS, with identities that it knows.
type directory struct {
	t        *testing.T
	emulator *emulator.Emulator
	secrets  *secrets
	cluster  *cluster
	config   Config
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
	d.config = Config{Authority: authority, Calls: calls()}
	return d
}

// source returns the one for a type, which trusts the directory's certificate.
func (d *directory) source(kind v1.IdentityType) *Source {
	var s *Source
	switch kind {
	case v1.ServicePrincipal:
		s = NewClientSecret(d.config, d.secrets)
	case v1.ServicePrincipalCertificate:
		s = NewCertificate(d.config, d.secrets, keyfile.NewParser(fileLimiter{}))
	default:
		s = NewFederated(d.config, Federation{Brokers: d.cluster, Namespace: "podid-brokers", Cloud: "AzurePublicCloud"})
	}
	s.client.Transport = d.client.Transport
	return s
}

// principal returns an identity in namespace shop, with a Secret of its name.
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

// verified returns the claims of a token after it has verified the signature with the directory's
// published keys.
func (d *directory) verified(t *testing.T, tok *token.Token) jwt.MapClaims {
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

func calls() source.Calls {
	return source.Calls{Limiter: sourcetest.Limiter{}, Meter: &sourcetest.Meter{}, Operation: "op", UserAgent: "podid-test"}
}

// fileLimiter never limits the reading of key files.
type fileLimiter struct{}

func (fileLimiter) Acquire(context.Context, string) (func(), error) { return func() {}, nil }
