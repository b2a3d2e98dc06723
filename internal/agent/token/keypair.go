// How a certificate with its key is read: PFX or PEM.

package token

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/podid-io/podid/internal/secretvalue"
)

// keyPair is a private key with the certificate of it first, then the others.
type keyPair struct {
	key   crypto.Signer
	chain []*x509.Certificate
}

// method is how the key signs.
func (k *keyPair) method(old bool) (jwt.SigningMethod, error) {
	switch key := k.key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() > maxBits {
			return nil, fmt.Errorf("its RSA key is longer than %d bits", maxBits)
		}
		if old {
			return jwt.SigningMethodRS256, nil
		}
		return jwt.SigningMethodPS256, nil
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256():
			return jwt.SigningMethodES256, nil
		case elliptic.P384():
			return jwt.SigningMethodES384, nil
		case elliptic.P521():
			return jwt.SigningMethodES512, nil
		}
	}
	return nil, errors.New("its private key is neither RSA nor EC on P-256, P-384 or P-521: make another certificate")
}

// parser reads files of keys. Whoever writes an identity writes the file, so it
// must cost no more than a file should: it is scanned for the work it asks for,
// read beside the request, a few at a time, one for each namespace, and given up
// after a while. The scan cannot see what is encrypted, so a crafted file can be
// at work for long: then it is its own namespace's turn that it takes.
type parser struct {
	slots chan struct{}

	mu      sync.Mutex
	turns   map[string]*turn               // by namespace, while there is somebody
	overdue map[[sha256.Size]byte]struct{} // files being read for too long, at most one a slot: not again meanwhile
}

// turn is that of a namespace; n are those who wait for it or have it.
type turn struct {
	taken chan struct{} // has room for the one
	n     int
}

const (
	// maxKeyFile is far beyond a key with a chain of certificates.
	maxKeyFile = 256 << 10
	// maxChain bounds the certificates that go along with an assertion.
	maxChain = 10
	// maxIterations of a password's derivation. Tools write between 1 and 600,000;
	// a million take a second of a CPU.
	maxIterations = 1_000_000
	// parseTime is ten times that.
	parseTime  = 10 * time.Second
	parseSlots = 4
	// maxBits of an RSA key; Entra ID takes no more than 4096.
	maxBits = 8192
)

func newParser() *parser {
	return &parser{slots: make(chan struct{}, parseSlots), turns: map[string]*turn{}, overdue: map[[sha256.Size]byte]struct{}{}}
}

type parsed struct {
	pair *keyPair
	err  error
}

// parse reads a key file of a namespace. Its errors never quote the file or the
// password.
func (p *parser) parse(ctx context.Context, namespace string, data []byte, password string) (*keyPair, error) {
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("the file is larger than %d kB", maxKeyFile>>10)
	}
	sum := sha256.Sum256(data)
	if p.isOverdue(sum) {
		return nil, errOverdue
	}
	ctx, cancel := context.WithTimeout(ctx, parseTime)
	defer cancel()
	release, err := p.acquire(ctx, namespace)
	if err != nil {
		return nil, err
	}
	done := make(chan parsed, 1)
	go func() {
		defer release()
		p.finish(sum, done, parseSafely(data, password))
	}()
	select {
	case result := <-done:
		return result.pair, result.err
	case <-ctx.Done():
		return p.giveUp(sum, done)
	}
}

// acquire waits for the namespace's turn and for a slot.
func (p *parser) acquire(ctx context.Context, namespace string) (release func(), err error) {
	p.mu.Lock()
	t := p.turns[namespace]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1)}
		p.turns[namespace] = t
	}
	t.n++
	p.mu.Unlock()
	leave := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if t.n--; t.n == 0 {
			delete(p.turns, namespace)
		}
	}
	select {
	case t.taken <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, errParserBusy
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		<-t.taken
		leave()
		return nil, errParserBusy
	}
	return func() {
		<-p.slots
		<-t.taken
		leave()
	}, nil
}

// The errors that may pass.
var (
	errParserBusy = errors.New("too many files of keys are being read: try again")
	errOverdue    = errors.New("a file with a certificate takes too long to read: try again, or protect it with fewer iterations")
)

// parseSafely turns a library's panic about a crafted file into an error.
func parseSafely(data []byte, password string) (result parsed) {
	defer func() {
		if recover() != nil {
			result = parsed{err: errors.New("it is damaged")}
		}
	}()
	pair, err := parseKeyPair(data, password)
	return parsed{pair, err}
}

// finish hands the result over, and takes the file off those that are overdue.
func (p *parser) finish(sum [sha256.Size]byte, done chan<- parsed, result parsed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.overdue, sum)
	done <- result // which has room for it
}

// giveUp notes that a file is overdue, unless it was read just now.
func (p *parser) giveUp(sum [sha256.Size]byte, done <-chan parsed) (*keyPair, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case result := <-done:
		return result.pair, result.err
	default:
		p.overdue[sum] = struct{}{}
		return nil, errOverdue
	}
}

func (p *parser) isOverdue(sum [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.overdue[sum]
	return ok
}

func parseKeyPair(data []byte, password string) (*keyPair, error) {
	data = secretvalue.Text(data)
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		// Files that were put together have a byte order mark each.
		return parsePEM(bytes.ReplaceAll(data, []byte("\ufeff"), nil), password)
	}
	if len(data) > 0 && data[0] != 0x30 {
		// Key Vault gives a PFX as base64 text.
		text := bytes.Join(bytes.Fields(data), nil)
		plain, err := base64.StdEncoding.DecodeString(string(text))
		if err != nil || len(plain) == 0 || plain[0] != 0x30 {
			return nil, errors.New("it is neither a PFX (PKCS#12) nor a PEM file")
		}
		data = plain
	}
	return parsePFX(data, password)
}

func parsePFX(data []byte, password string) (*keyPair, error) {
	if err := checkIterations(data); err != nil {
		return nil, err
	}
	key, leaf, others, err := pkcs12.DecodeChain(data, password)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, wrongPassword(password)
	case err != nil:
		return nil, fmt.Errorf("it is no PFX file that can be read (%w): make a new one with openssl pkcs12 -export", err)
	}
	return newKeyPair(key, append([]*x509.Certificate{leaf}, others...))
}

func wrongPassword(password string) error {
	if password == "" {
		return errors.New("the private key is protected: put its password into the Secret, under the key " + passwordKey)
	}
	return errors.New("the password, in the same Secret under the key " + passwordKey + ", is wrong")
}

func parsePEM(data []byte, password string) (*keyPair, error) {
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
	return newKeyPair(key, chain)
}

// parseKeyBlock reads a private key; nil for what is none (EC PARAMETERS, say).
func parseKeyBlock(block *pem.Block, password string) (any, error) {
	der := block.Bytes
	//nolint:staticcheck // weak as it is, there are files that are protected like this
	if x509.IsEncryptedPEMBlock(block) {
		var err error
		if der, err = x509.DecryptPEMBlock(block, []byte(password)); err != nil { //nolint:staticcheck // as above
			return nil, wrongPassword(password)
		}
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	case "ENCRYPTED PRIVATE KEY":
		return openPKCS8(der, password)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, errors.New("its private key cannot be read")
	}
	return key, nil
}

// newKeyPair puts the certificate of the key first: not every program writes it
// there.
func newKeyPair(key any, certificates []*x509.Certificate) (*keyPair, error) {
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
			chain := append([]*x509.Certificate{c}, append(certificates[:i:i], certificates[i+1:]...)...)
			pair := &keyPair{signer, chain[:min(len(chain), maxChain)]}
			_, err := pair.method(false)
			return pair, err
		}
	}
	return nil, errors.New("none of its certificates belongs to its private key")
}
