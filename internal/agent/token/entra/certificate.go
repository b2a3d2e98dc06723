// Type 2: a service principal with a certificate.

package entra

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is defined as a SHA-1 thumbprint
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token/keyfile"
	"github.com/podid-io/podid/internal/reason"
	"github.com/podid-io/podid/internal/secretvalue"
)

// assertionTime is how long an assertion is valid. It is used at once.
const assertionTime = 10 * time.Minute

// NewCertificate returns the source of service principals with a certificate.
func NewCertificate(c Config, secrets Secrets, parser *keyfile.Parser) *Source {
	return newSource(c, certificates{secrets, parser})
}

type certificates struct {
	Secrets
	parser *keyfile.Parser
}

func (c certificates) proof(ctx context.Context, id *v1.AzureIdentity) (proof, error) {
	data, err := readSecret(ctx, c, id)
	if err != nil {
		return nil, err
	}
	if len(data[keyfile.CertificateKey]) == 0 {
		return nil, unusable(id, fmt.Errorf("its Secret %s has no key %s (or no value there): put a PFX file there, or "+
			"a PEM file with certificate and private key: kubectl -n %s create secret generic %s --from-file=%s=FILE",
			secretName(id), keyfile.CertificateKey, secretNamespace(id), id.Spec.ClientPassword.Name,
			keyfile.CertificateKey))
	}
	password := secretvalue.Password(data[keyfile.PasswordKey])
	pair, err := c.parser.Parse(ctx, id.Namespace, data[keyfile.CertificateKey], password)
	switch {
	case errors.Is(err, keyfile.ErrBusy):
		return nil, &reason.Refusal{
			Reason: reason.KeyBusy, Message: err.Error(),
		}
	case err != nil:
		return nil, unusable(id, fmt.Errorf("its Secret %s, key %s: %w", secretName(id), keyfile.CertificateKey, err))
	}
	return keyPair{pair}, nil
}

// tenants returns the identity's only: v1.8.17 has no list of tokens for this type.
func (certificates) tenants(id *v1.AzureIdentity) []string { return []string{id.Spec.TenantID} }

type keyPair struct{ *keyfile.Pair }

// sign makes an assertion. Entra ID requires PSS for RSA keys and the certificate's SHA-256
// thumbprint. ADFS knows only the older ways. The certificates are sent for applications that trust
// a subject and its issuer instead of one certificate. Others ignore them.
func (k keyPair) sign(form url.Values, at endpoint, clientID string, now time.Time) error {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	unsigned := jwt.NewWithClaims(k.method(at.adfs), jwt.MapClaims{
		"aud": at.url, "iss": clientID, "sub": clientID, "jti": hex.EncodeToString(id),
		"nbf": now.Unix(), "iat": now.Unix(), "exp": now.Add(assertionTime).Unix(),
	})
	if at.adfs {
		sum := sha1.Sum(k.Chain[0].Raw) //nolint:gosec // a name, not a proof
		unsigned.Header["x5t"] = base64.RawURLEncoding.EncodeToString(sum[:])
	} else {
		sum := sha256.Sum256(k.Chain[0].Raw)
		unsigned.Header["x5t#S256"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	x5c := make([]string, len(k.Chain))
	for i, c := range k.Chain {
		x5c[i] = base64.StdEncoding.EncodeToString(c.Raw)
	}
	unsigned.Header["x5c"] = x5c
	text, err := unsigned.SignedString(k.Key)
	if err != nil {
		return fmt.Errorf("its private key does not sign: %w", err)
	}
	return assertion(text).sign(form, at, clientID, now)
}

// method returns how the key signs. The parser accepts no other keys than these.
func (k keyPair) method(adfs bool) jwt.SigningMethod {
	switch key := k.Key.Public().(type) {
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return jwt.SigningMethodES256
		case 384:
			return jwt.SigningMethodES384
		default:
			return jwt.SigningMethodES512
		}
	case *rsa.PublicKey:
		if adfs {
			return jwt.SigningMethodRS256
		}
	}
	return jwt.SigningMethodPS256
}

func (k keyPair) equal(other proof) bool {
	o, ok := other.(keyPair)
	return ok && k.Chain[0].Equal(o.Chain[0])
}

// leaked is always false: the key is never sent, and an assertion is useless after minutes.
func (keyPair) leaked(string) bool { return false }

// describe names the certificate as the portal lists it.
func (k keyPair) describe() string {
	sum := sha1.Sum(k.Chain[0].Raw) //nolint:gosec // a name, not a proof
	until := k.Chain[0].NotAfter.UTC().Format(time.DateOnly)
	return fmt.Sprintf("certificate with the thumbprint %X (valid until %s)", sum, until)
}
