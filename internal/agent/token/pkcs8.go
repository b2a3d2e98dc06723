// Private keys that are protected by a password, in PKCS#8 (RFC 5958, RFC 8018).

package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // files protected by it exist
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // as above
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
)

// sealedKey is EncryptedPrivateKeyInfo.
type sealedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

// pbes2 are the parameters of the one algorithm that is in use today.
type pbes2 struct{ Derivation, Cipher pkix.AlgorithmIdentifier }

type pbkdf2Parameters struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

// The object identifiers, as text.
const (
	oidPBES2  = "1.2.840.113549.1.5.13"
	oidPBKDF2 = "1.2.840.113549.1.5.12"
)

// derivedCipher is a cipher in CBC mode and the length of its key.
type derivedCipher struct {
	length int
	make   func([]byte) (cipher.Block, error)
}

func cipherOf(oid string) (derivedCipher, bool) {
	c, ok := map[string]derivedCipher{
		"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
		"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
		"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
		"1.2.840.113549.3.7":      {24, des.NewTripleDESCipher},
	}[oid]
	return c, ok
}

func hashOf(oid string) (func() hash.Hash, bool) {
	h, ok := map[string]func() hash.Hash{
		"":                    sha1.New, // what is not said is SHA-1
		"1.2.840.113549.2.7":  sha1.New,
		"1.2.840.113549.2.9":  sha256.New,
		"1.2.840.113549.2.10": sha512.New384,
		"1.2.840.113549.2.11": sha512.New,
	}[oid]
	return h, ok
}

var errProtection = errors.New("its private key is protected in a way that is not supported: openssl pkcs8 -topk8 -v2 aes-256-cbc makes one that is")

// openPKCS8 reads a key that a password protects.
func openPKCS8(der []byte, password string) (any, error) {
	var sealed sealedKey
	var scheme pbes2
	var kdf pbkdf2Parameters
	if !unmarshal(der, &sealed) {
		return nil, errors.New("its private key cannot be read")
	}
	if sealed.Algorithm.Algorithm.String() != oidPBES2 || !unmarshal(sealed.Algorithm.Parameters.FullBytes, &scheme) ||
		scheme.Derivation.Algorithm.String() != oidPBKDF2 || !unmarshal(scheme.Derivation.Parameters.FullBytes, &kdf) {
		return nil, errProtection
	}
	if kdf.Iterations < 1 || kdf.Iterations > maxIterations {
		return nil, fmt.Errorf("%w: its password is derived with more than %d iterations", errTooMuchWork, maxIterations)
	}
	prf := ""
	if len(kdf.PRF.Algorithm) > 0 {
		prf = kdf.PRF.Algorithm.String()
	}
	digest, known := hashOf(prf)
	c, knownCipher := cipherOf(scheme.Cipher.Algorithm.String())
	if !known || !knownCipher {
		return nil, errProtection
	}
	key, err := pbkdf2.Key(digest, password, kdf.Salt, kdf.Iterations, c.length)
	if err != nil {
		return nil, errProtection
	}
	plain, ok := c.open(key, scheme.Cipher.Parameters, sealed.Data)
	if !ok {
		return nil, wrongPassword(password)
	}
	opened, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, wrongPassword(password)
	}
	return opened, nil
}

// open decrypts data and takes its padding off; false when that does not fit.
func (c derivedCipher) open(key []byte, parameters asn1.RawValue, data []byte) ([]byte, bool) {
	var iv []byte
	block, err := c.make(key)
	if err != nil || !unmarshal(parameters.FullBytes, &iv) || len(iv) != block.BlockSize() || len(data) == 0 || len(data)%block.BlockSize() != 0 {
		return nil, false
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
	padding := int(plain[len(plain)-1])
	if padding < 1 || padding > block.BlockSize() {
		return nil, false
	}
	return plain[:len(plain)-padding], true
}

func unmarshal(der []byte, into any) bool {
	rest, err := asn1.Unmarshal(der, into)
	return err == nil && len(rest) == 0
}
