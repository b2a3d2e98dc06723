// The keys that tokens are signed with, and their certificates.

package entra

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is defined as a SHA-1 thumbprint
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Keys holds the key that signs all tokens.
type Keys struct {
	private *rsa.PrivateKey
	id      string // kid and x5t
	cert    []byte // DER, for x5c
}

// GenerateKeys creates a new key.
func GenerateKeys() (*Keys, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("generate signing key: %w", err)
	}
	return newKeys(private)
}

// ParseKeys reads a key in the format of PEM.
func ParseKeys(text []byte) (*Keys, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("parse signing key: not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse signing key: %w", err)
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("parse signing key: %T is not an RSA key", key)
	}
	return newKeys(private)
}

// PEM returns the private key, for storage.
func (k *Keys) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("encode signing key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func newKeys(private *rsa.PrivateKey) (*Keys, error) {
	// The certificate only carries the key, as in Entra ID's own x5c. Fixed dates make it identical in
	// every run.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "podid emulator, token signing"},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, fmt.Errorf("certify signing key: %w", err)
	}
	sum := sha1.Sum(der) //nolint:gosec // see above
	return &Keys{private: private, id: base64.RawURLEncoding.EncodeToString(sum[:]), cert: der}, nil
}

// jwk is one entry of the key set.
type jwk struct {
	Type   string   `json:"kty"`
	Use    string   `json:"use"`
	ID     string   `json:"kid"`
	X5t    string   `json:"x5t"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	X5c    []string `json:"x5c"`
	Issuer string   `json:"issuer,omitempty"`
}

func (k *Keys) set(issuer string) map[string][]jwk {
	public := k.private.PublicKey
	return map[string][]jwk{"keys": {{
		Type: "RSA", Use: "sig", ID: k.id, X5t: k.id,
		N:      base64.RawURLEncoding.EncodeToString(public.N.Bytes()),
		E:      base64.RawURLEncoding.EncodeToString(big.NewInt(int64(public.E)).Bytes()),
		X5c:    []string{base64.StdEncoding.EncodeToString(k.cert)},
		Issuer: issuer,
	}}}
}
