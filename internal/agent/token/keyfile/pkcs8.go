// Private keys protected by a password, in PKCS#8 (RFC 5958, RFC 8018). Microsoft's instructions
// for Node.js apps make them (openssl req -x509 -newkey and openssl pkcs12 -nocerts, both with a
// pass phrase):
// https://learn.microsoft.com/entra/identity-platform/how-to-web-app-node-use-certificate.

package keyfile

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // OpenSSL 1.1 writes it
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // as above
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"hash"
)

// encryptedKey is EncryptedPrivateKeyInfo.
type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

// pbes2 are the parameters of the one scheme that OpenSSL writes.
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

// cbc is a cipher in CBC mode with the length of its key.
type cbc struct {
	keyLength int
	block     func(key []byte) (cipher.Block, error)
}

func cipherOf(oid string) (cbc, bool) {
	c, ok := map[string]cbc{
		"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
		"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
		"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
		"1.2.840.113549.3.7":      {24, des.NewTripleDESCipher},
	}[oid]
	return c, ok
}

func hashOf(prf pkix.AlgorithmIdentifier) (func() hash.Hash, bool) {
	if len(prf.Algorithm) == 0 {
		return sha1.New, true // the default
	}
	h, ok := map[string]func() hash.Hash{
		"1.2.840.113549.2.7":  sha1.New,
		"1.2.840.113549.2.9":  sha256.New,
		"1.2.840.113549.2.10": sha512.New384,
		"1.2.840.113549.2.11": sha512.New,
	}[prf.Algorithm.String()]
	return h, ok
}

var errProtection = errors.New("its private key is protected in a way that is not supported: " +
	"openssl pkcs8 -topk8 -v2 aes-256-cbc makes one that is")

// openPKCS8 decrypts a private key.
func openPKCS8(der []byte, password string) (any, error) {
	if err := checkIterations(der); err != nil {
		return nil, err
	}
	var key encryptedKey
	if !unmarshal(der, &key) {
		return nil, errors.New("its private key cannot be read")
	}
	scheme, kdf, ok := parametersOf(key.Algorithm)
	if !ok {
		return nil, errProtection
	}
	prf, known := hashOf(kdf.PRF)
	c, knownCipher := cipherOf(scheme.Cipher.Algorithm.String())
	if !known || !knownCipher {
		return nil, errProtection
	}
	derived, err := pbkdf2.Key(prf, password, kdf.Salt, kdf.Iterations, c.keyLength)
	if err != nil {
		return nil, errProtection
	}
	plain, ok := c.decrypt(derived, scheme.Cipher.Parameters, key.Data)
	if !ok {
		return nil, wrongPassword(password)
	}
	opened, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, wrongPassword(password)
	}
	return opened, nil
}

// parametersOf returns the parameters of an algorithm. It returns false for another scheme than
// PBES2 with PBKDF2.
func parametersOf(algorithm pkix.AlgorithmIdentifier) (scheme pbes2, kdf pbkdf2Parameters, ok bool) {
	ok = algorithm.Algorithm.String() == oidPBES2 && unmarshal(algorithm.Parameters.FullBytes, &scheme) &&
		scheme.Derivation.Algorithm.String() == oidPBKDF2 && unmarshal(scheme.Derivation.Parameters.FullBytes, &kdf)
	return scheme, kdf, ok
}

// decrypt decrypts data and removes its padding. It returns false if that does not fit.
func (c cbc) decrypt(key []byte, parameters asn1.RawValue, data []byte) ([]byte, bool) {
	var iv []byte
	block, err := c.block(key)
	if err != nil || !unmarshal(parameters.FullBytes, &iv) {
		return nil, false
	}
	if len(iv) != block.BlockSize() || len(data) == 0 || len(data)%block.BlockSize() != 0 {
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
