// Package keyfile reads the certificate and private key that a Secret holds, from PFX or PEM.
//
// These are the files that the documented ways to make them write:
//   - PFX, protected by a password or not: Export-PfxCertificate and Key Vault. v1.8.17 read only
//     this.
//   - PEM with an unprotected key: az ad app credential reset --create-cert, and Key Vault.
//   - PEM with a key in encrypted PKCS#8: OpenSSL with a pass phrase; see pkcs8.go.
//
// None writes a PEM key in OpenSSL's old encrypted format (DEK-Info), so it is refused.
package keyfile

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/podid-io/podid/internal/secretvalue"
)

// The keys of a Secret with a certificate.
const (
	CertificateKey = "certificate"
	PasswordKey    = "password"
)

// Pair is a private key with its certificate first, then the other certificates of the file.
type Pair struct {
	Key   crypto.Signer
	Chain []*x509.Certificate
}

// Format writes a mask, whatever the verb.
func (*Pair) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[key]")) }

// Limiter bounds how many files are read at once, in all and of one namespace.
type Limiter interface {
	Acquire(ctx context.Context, namespace string) (release func(), err error)
}

// Parser reads key files.
//
// The author of an AzureIdentity writes the file, so reading it must stay cheap. A file that
// visibly derives its password with too many iterations is refused. What is encrypted cannot be
// checked, and reading cannot be interrupted. So each file is read in its own goroutine, which
// keeps its place at the limiter until it ends, however long that takes, while the request gives up
// after parseTime. So a hostile file blocks only its own namespace.
type Parser struct{ limiter Limiter }

const (
	// maxSize is far more than a key with a chain of certificates needs.
	maxSize = 256 << 10
	// maxChain bounds the certificates that are sent with an assertion.
	maxChain = 10
	// parseTime is ten times what maxIterations take.
	parseTime = 10 * time.Second
	// maxBits is the longest RSA key. Entra ID accepts 4096 at most.
	maxBits = 8192
)

// ErrBusy means that the file could not be read in time.
var ErrBusy = errors.New("a file with a certificate takes too long to read, or too many wait: " +
	"try again, or protect the file with fewer iterations")

// NewParser returns a parser. The limiter must allow one file of each namespace at a time.
func NewParser(limiter Limiter) *Parser { return &Parser{limiter} }

// Parse reads a key file of a namespace. Its errors quote neither the file nor the password. They
// are final, except ErrBusy.
func (p *Parser) Parse(ctx context.Context, namespace string, data []byte, password string) (*Pair, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("the file is larger than %d kB", maxSize>>10)
	}
	ctx, cancel := context.WithTimeout(ctx, parseTime)
	defer cancel()
	release, err := p.limiter.Acquire(ctx, namespace)
	if err != nil {
		return nil, ErrBusy
	}
	type result struct {
		pair *Pair
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer release()
		pair, err := parseSafely(data, password)
		done <- result{pair, err}
	}()
	select {
	case r := <-done:
		return r.pair, r.err
	case <-ctx.Done():
		return nil, ErrBusy
	}
}

// parseSafely turns a library's panic about a crafted file into an error.
func parseSafely(data []byte, password string) (pair *Pair, err error) {
	defer func() {
		if recover() != nil {
			pair, err = nil, errors.New("it is damaged")
		}
	}()
	return parse(data, password)
}

func parse(data []byte, password string) (*Pair, error) {
	data = secretvalue.Text(data)
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		// Files that were concatenated have a byte order mark each.
		return parsePEM(bytes.ReplaceAll(data, []byte("\ufeff"), nil), password)
	}
	const sequence = 0x30 // how DER begins
	if len(data) > 0 && data[0] != sequence {
		// Key Vault returns a PFX as base64 text.
		text := bytes.Join(bytes.Fields(data), nil)
		plain, err := base64.StdEncoding.DecodeString(string(text))
		if err != nil || len(plain) == 0 || plain[0] != sequence {
			return nil, errors.New("it is neither a PFX (PKCS#12) nor a PEM file")
		}
		data = plain
	}
	return parsePFX(data, password)
}

func parsePFX(data []byte, password string) (*Pair, error) {
	if err := checkIterations(data); err != nil {
		return nil, err
	}
	key, leaf, others, err := pkcs12.DecodeChain(data, password)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, wrongPassword(password)
	case err != nil:
		return nil, fmt.Errorf("it is no PFX file that can be read (%w): "+
			"make a new one with openssl pkcs12 -export", err)
	}
	return newPair(key, append([]*x509.Certificate{leaf}, others...))
}

func wrongPassword(password string) error {
	if password == "" {
		return errors.New("the private key is protected: put its password into the Secret, " +
			"under the key " + PasswordKey)
	}
	return errors.New("the password, in the same Secret under the key " + PasswordKey + ", is wrong")
}

func parsePEM(data []byte, password string) (*Pair, error) {
	var key any
	var chain []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, errors.New("one of its certificates cannot be read")
			}
			chain = append(chain, c)
			continue
		}
		found, err := parseKeyBlock(block, password)
		if err != nil {
			return nil, err
		}
		if found != nil && key != nil {
			return nil, errors.New("it has more than one private key: leave only that of the certificate")
		}
		if found != nil {
			key = found
		}
	}
	switch {
	case key == nil:
		return nil, errors.New("it has no private key: put the key's PEM into the same file")
	case len(chain) == 0:
		return nil, errors.New("it has no certificate: put the certificate's PEM into the same file")
	}
	return newPair(key, chain)
}

// parseKeyBlock returns the private key of a block, or nil for another block, such as EC
// PARAMETERS.
func parseKeyBlock(block *pem.Block, password string) (key any, err error) {
	if block.Headers["DEK-Info"] != "" {
		return nil, errLegacyPEM
	}
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return openPKCS8(block.Bytes, password)
	}
	if err != nil {
		return nil, errors.New("its private key cannot be read")
	}
	return key, nil
}

var errLegacyPEM = errors.New("its private key is protected in OpenSSL's old format, which is not supported: " +
	"openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD.pem -out KEY.pem converts it, " +
	"then put it into the file with its certificate")

// newPair puts the certificate of the key first: not every program writes it there.
func newPair(key any, certificates []*x509.Certificate) (*Pair, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("its private key cannot sign")
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return nil, errors.New("its private key is of an unknown kind")
	}
	for i, c := range certificates {
		if public.Equal(c.PublicKey) {
			if err := checkKey(signer); err != nil {
				return nil, err
			}
			chain := append([]*x509.Certificate{c}, append(certificates[:i:i], certificates[i+1:]...)...)
			return &Pair{signer, chain[:min(len(chain), maxChain)]}, nil
		}
	}
	return nil, errors.New("none of its certificates belongs to its private key")
}

// checkKey refuses keys that neither Entra ID nor ADFS accepts.
func checkKey(key crypto.Signer) error {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() > maxBits {
			return fmt.Errorf("its RSA key is longer than %d bits", maxBits)
		}
		return nil
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
	}
	return errors.New("its private key is neither RSA nor EC on P-256, P-384 or P-521: make another certificate")
}
