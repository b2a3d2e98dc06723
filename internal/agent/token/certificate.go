// Type 2: a service principal with a certificate.

package token

import (
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // x5t is defined as a SHA-1 thumbprint
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/secretvalue"
)

const (
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	// assertionTime is how long an assertion is good for; it is used at once.
	assertionTime = 10 * time.Minute
)

// The keys of a Secret with a certificate.
const (
	certificateKey = "certificate"
	passwordKey    = "password"
)

// NewCertificate returns the source of service principals with a certificate. It
// is read from the API server for each token that is minted, and not kept.
func NewCertificate(c EntraConfig, secrets Secrets) *Entra {
	return &Entra{prover: certificates{secrets, newParser()}, exchange: newExchange(c)}
}

type certificates struct {
	Secrets
	parser *parser
}

func (c certificates) proof(ctx context.Context, id *v1.AzureIdentity) (proof, *problem) {
	data, p := readSecret(ctx, c, id)
	if p != nil {
		return nil, p
	}
	if len(data[certificateKey]) == 0 {
		return nil, unusable(id, fmt.Errorf("its Secret %s has no key %s (or no value there): put a PFX file there, or a PEM file with certificate and private key: "+
			"kubectl -n %s create secret generic %s --from-file=%s=FILE", secretName(id), certificateKey, secretNamespace(id), id.Spec.ClientPassword.Name, certificateKey))
	}
	pair, err := c.parser.parse(ctx, id.Namespace, data[certificateKey], secretvalue.Password(data[passwordKey]))
	switch {
	case errors.Is(err, errParserBusy), errors.Is(err, errOverdue):
		return nil, &problem{Failure: Failure{Status: http.StatusInternalServerError, Code: "certificate_busy", Message: err.Error()}}
	case err != nil:
		return nil, unusable(id, fmt.Errorf("its Secret %s, key %s: %w", secretName(id), certificateKey, err))
	}
	return pair, nil
}

// tenants is the identity's only: v1.8.17 has no list of tokens for this type.
func (certificates) tenants(id *v1.AzureIdentity) []string { return []string{id.Spec.TenantID} }

// Format writes a mask, whatever the verb.
func (*keyPair) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[key]")) }

// sign makes an assertion. Entra ID wants RSA keys to sign by PSS and the
// certificate named by SHA-256; ADFS knows only the older ways. The certificates
// themselves go along for applications that trust a subject and its issuer
// instead of one certificate; the others ignore them.
func (k *keyPair) sign(form url.Values, at endpoint, clientID string, now time.Time) error {
	method, err := k.method(at.adfs)
	if err != nil {
		return err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails, says crypto/rand
	token := jwt.NewWithClaims(method, jwt.MapClaims{
		"aud": at.url, "iss": clientID, "sub": clientID, "jti": hex.EncodeToString(id),
		"nbf": now.Unix(), "iat": now.Unix(), "exp": now.Add(assertionTime).Unix(),
	})
	if at.adfs {
		sum := sha1.Sum(k.chain[0].Raw) //nolint:gosec // a name, not a proof
		token.Header["x5t"] = base64.RawURLEncoding.EncodeToString(sum[:])
	} else {
		sum := sha256.Sum256(k.chain[0].Raw)
		token.Header["x5t#S256"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	x5c := make([]string, len(k.chain))
	for i, c := range k.chain {
		x5c[i] = base64.StdEncoding.EncodeToString(c.Raw)
	}
	token.Header["x5c"] = x5c
	text, err := token.SignedString(k.key)
	if err != nil {
		return fmt.Errorf("its private key does not sign: %w", err)
	}
	form.Set("client_assertion_type", assertionType)
	form.Set("client_assertion", text)
	return nil
}

func (k *keyPair) same(other proof) bool {
	o, ok := other.(*keyPair)
	return ok && k.chain[0].Equal(o.chain[0])
}

// leaked: an assertion is no secret worth the name, and the key is never sent.
func (*keyPair) leaked(string) bool { return false }

// names is the certificate as the portal lists it.
func (k *keyPair) names() string {
	sum := sha1.Sum(k.chain[0].Raw) //nolint:gosec // a name, not a proof
	return fmt.Sprintf("certificate with the thumbprint %X (valid until %s)", sum, k.chain[0].NotAfter.UTC().Format(time.DateOnly))
}
