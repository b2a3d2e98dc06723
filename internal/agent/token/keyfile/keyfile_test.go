package keyfile

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/podid-io/podid/internal/agent/fair"
	"github.com/podid-io/podid/internal/agent/token/keyfile/keyfiletest"
)

const keyPassword = "pass wörd"

// TestKeyFiles reads every supported form of file.
func TestKeyFiles(t *testing.T) {
	rsaPrivate, ecPrivate := keyfiletest.RSA(t), keyfiletest.EC(t, elliptic.P256())
	rsaCert, rsaPEM, rsaKeyPEM := keyfiletest.Certificate(t, rsaPrivate)
	ecCert, ecPEM, ecKeyPEM := keyfiletest.Certificate(t, ecPrivate)
	block := func(kind string, der []byte, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	pkcs1 := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaPrivate), nil)
	sec1DER, err := x509.MarshalECPrivateKey(ecPrivate)
	sec1 := block("EC PRIVATE KEY", sec1DER, err)
	//nolint:staticcheck // the legacy format is tested
	old, err := x509.EncryptPEMBlock(rand.Reader, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaPrivate), []byte(keyPassword), x509.PEMCipherAES256)
	if err != nil {
		t.Fatal(err)
	}
	sealed := block("ENCRYPTED PRIVATE KEY", seal(t, rsaPrivate, keyPassword), nil)
	pfx := func(e *pkcs12.Encoder, key any, cert *x509.Certificate, chain []*x509.Certificate, password string) string {
		t.Helper()
		data, err := e.Encode(key, cert, chain, password)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	chain := []*x509.Certificate{ecCert}
	modern := pfx(pkcs12.Modern, rsaPrivate, rsaCert, chain, keyPassword)
	tests := []struct {
		name, data, password string
		leaf                 *x509.Certificate
		certificates         int
	}{
		{"PKCS#8", rsaKeyPEM + rsaPEM, "", rsaCert, 1},
		{"PKCS#8, EC", ecPEM + ecKeyPEM, "", ecCert, 1},
		{"PKCS#1", pkcs1 + rsaPEM, "", rsaCert, 1},
		{"SEC 1", "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + sec1 + ecPEM, "", ecCert, 1},
		{"password for nothing", rsaKeyPEM + rsaPEM, "x", rsaCert, 1},
		{"chain first", ecPEM + rsaPEM + rsaKeyPEM, "", rsaCert, 2},
		{"text around", "Bag Attributes\n  x: y\n" + rsaPEM + "\n\n" + rsaKeyPEM + "\n", "", rsaCert, 1},
		{"encrypted PKCS#8", sealed + rsaPEM, keyPassword, rsaCert, 1},
		{"PFX", modern, keyPassword, rsaCert, 2},
		{"PFX, EC", pfx(pkcs12.Modern, ecPrivate, ecCert, nil, keyPassword), keyPassword, ecCert, 1},
		{"PFX, empty password", pfx(pkcs12.Modern, rsaPrivate, rsaCert, nil, ""), "", rsaCert, 1},
		{"PFX, no password", pfx(pkcs12.Passwordless, rsaPrivate, rsaCert, nil, ""), "", rsaCert, 1},
		{"PFX, 3DES", pfx(pkcs12.LegacyDES, rsaPrivate, rsaCert, chain, keyPassword), keyPassword, rsaCert, 2},
		{"PFX, RC2", pfx(pkcs12.LegacyRC2, rsaPrivate, rsaCert, chain, keyPassword), keyPassword, rsaCert, 2},
		{"byte order mark", "\ufeff" + rsaKeyPEM + rsaPEM, "", rsaCert, 1},
		{"two byte order marks, Windows' line ends", strings.ReplaceAll("\ufeff"+rsaKeyPEM+"\ufeff"+rsaPEM, "\n", "\r\n"), "", rsaCert, 1},
		{"blanks and lines around", "\n \n" + rsaKeyPEM + "  \n" + rsaPEM + " \t", "", rsaCert, 1},
		{"UTF-16", utf16Text(rsaKeyPEM + rsaPEM), "", rsaCert, 1},
		{"PFX as text with a byte order mark", "\ufeff" + base64.StdEncoding.EncodeToString([]byte(modern)) + "\r\n", keyPassword, rsaCert, 2},
		{"PFX as Key Vault's text", base64.StdEncoding.EncodeToString([]byte(modern)) + "\n", keyPassword, rsaCert, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pair, err := newParser().Parse(t.Context(), "ns", []byte(tt.data), tt.password)
			if err != nil {
				t.Fatal(err)
			}
			if !pair.Chain[0].Equal(tt.leaf) || len(pair.Chain) != tt.certificates {
				t.Errorf("%d certificates, first %v", len(pair.Chain), pair.Chain[0].SerialNumber)
			}
		})
	}

	p224 := keyfiletest.EC(t, elliptic.P224())
	_, p224PEM, p224Key := keyfiletest.Certificate(t, p224)
	bad := []struct{ name, data, password, says string }{
		{"empty", " ", "", "neither a PFX"},
		{"garbage", "hello", "", "neither a PFX"},
		{"DER of something else", string(rsaCert.Raw), "", "no PFX file"},
		{"half a PFX", modern[:len(modern)/2], keyPassword, "no PFX file"},
		{"no key", rsaPEM, "", "no private key"},
		{"no certificate", rsaKeyPEM, "", "no certificate"},
		{"two keys", rsaKeyPEM + ecKeyPEM + rsaPEM, "", "more than one private key"},
		{"of another key", rsaKeyPEM + ecPEM, "", "belongs to its private key"},
		{"no password", modern, "", "put its password into the Secret"},
		{"wrong password", modern, "wrong", "is wrong"},
		{"no password, PKCS#8", sealed + rsaPEM, "", "put its password into the Secret"},
		{"wrong password, PKCS#8", sealed + rsaPEM, "wrong", "is wrong"},
		{"old PEM", string(pem.EncodeToMemory(old)) + rsaPEM, keyPassword, "openssl pkcs8 -topk8"},
		{"damaged certificate", rsaKeyPEM + block("CERTIFICATE", rsaCert.Raw[:50], nil), "", "cannot be read"},
		{"damaged key", rsaPEM + block("PRIVATE KEY", []byte{1}, nil), "", "cannot be read"},
		{"another curve", p224Key + p224PEM, "", "P-256"},
		{"large", strings.Repeat(rsaPEM, maxSize/len(rsaPEM)+1), "", "larger than"},
	}
	for _, tt := range bad {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newParser().Parse(t.Context(), "ns", []byte(tt.data), tt.password)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("got %v, want %q", err, tt.says)
			}
			if strings.Contains(err.Error(), keyPassword) {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}

// utf16Text encodes a text as PowerShell's > does.
func utf16Text(text string) string {
	data := []byte{0xff, 0xfe}
	for _, unit := range utf16.Encode([]rune(text)) {
		data = binary.LittleEndian.AppendUint16(data, unit)
	}
	return string(data)
}

// seal encrypts a key as OpenSSL does.
func seal(t *testing.T, key any, password string) []byte {
	t.Helper()
	marshal := func(v any) asn1.RawValue {
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return asn1.RawValue{FullBytes: der}
	}
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	salt, iv := []byte("saltsalt"), make([]byte, aes.BlockSize)
	derived, err := pbkdf2.Key(sha256.New, password, salt, 2048, 32)
	if err != nil {
		t.Fatal(err)
	}
	c, err := aes.NewCipher(derived)
	if err != nil {
		t.Fatal(err)
	}
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	plain = append(plain, bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(c, iv).CryptBlocks(plain, plain)
	named := func(parameters asn1.RawValue, oid ...int) pkix.AlgorithmIdentifier {
		return pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: parameters}
	}
	return marshal(encryptedKey{
		Algorithm: named(marshal(pbes2{
			Derivation: named(marshal(pbkdf2Parameters{
				Salt: salt, Iterations: 2048, PRF: named(asn1.NullRawValue, 1, 2, 840, 113549, 2, 9),
			}), 1, 2, 840, 113549, 1, 5, 12),
			Cipher: named(marshal(iv), 2, 16, 840, 1, 101, 3, 4, 1, 42),
		}), 1, 2, 840, 113549, 1, 5, 13),
		Data: plain,
	}).FullBytes
}

// TestOpenSSL reads the output of openssl.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl")
	}
	dir := t.TempDir()
	run := func(t *testing.T, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), openssl, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("this openssl cannot: %s", bytes.TrimSpace(out))
		}
	}
	run(t, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=app", "-days", "1")
	cert, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	export := []string{"pkcs12", "-export", "-inkey", "key.pem", "-in", "cert.pem", "-out", "out", "-passout", "pass:secret"}
	seal := []string{"pkcs8", "-topk8", "-in", "key.pem", "-out", "out", "-passout", "pass:secret"}
	tests := []struct {
		name string
		args []string
		says string // of an error
	}{
		{name: "PFX", args: export},
		{name: "PFX, legacy", args: append(slices.Clip(export), "-legacy")},
		{name: "PFX, 3DES", args: append(slices.Clip(export), "-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1")},
		{name: "PFX, 100,000", args: append(slices.Clip(export), "-iter", "100000")},
		{name: "PFX, too many", args: append(slices.Clip(export), "-iter", "1000001", "-nomaciter"), says: "too long"},
		{name: "PKCS#8", args: append(slices.Clip(seal), "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512")},
		{name: "PKCS#8, 3DES", args: append(slices.Clip(seal), "-v2", "des3")},
		{name: "PKCS#8, scrypt", args: append(slices.Clip(seal), "-scrypt"), says: "not supported"},
		{name: "PKCS#8, too many", args: append(slices.Clip(seal), "-v2", "aes-256-cbc", "-iter", "1000001"), says: "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			run(t, tt.args...)
			data, err := os.ReadFile(filepath.Join(dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.HasPrefix(data, []byte("-----")) {
				data = append(data, cert...)
			}
			_, err = parse(data, "secret")
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestKeyFileWork checks the bound on the iterations that a file asks for.
func TestKeyFileWork(t *testing.T) {
	params := func(count int) []byte {
		der, err := asn1.Marshal(struct {
			Salt  []byte
			Count int
		}{[]byte("salt"), count})
		if err != nil {
			t.Fatal(err)
		}
		nested, err := asn1.Marshal(der) // in an octet string, as in a PFX
		if err != nil {
			t.Fatal(err)
		}
		return nested
	}
	if err := checkIterations(params(maxIterations)); err != nil {
		t.Error(err)
	}
	for _, count := range []int{maxIterations + 1, 1 << 40, -1} {
		if err := checkIterations(params(count)); !errors.Is(err, errTooMuchWork) {
			t.Errorf("%d: %v", count, err)
		}
	}
}

func newParser() *Parser {
	return NewParser(fair.New(fair.Config{Rate: 100, Burst: 100, Concurrent: 4, PerCaller: 1, Waiting: 64, WaitingPerCaller: 16}))
}

// TestSlowFile checks that a file that is never read to its end blocks only its own namespace.
func TestSlowFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParser()
		release, err := p.limiter.Acquire(t.Context(), "hostile")
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				began := time.Now()
				if _, err := p.Parse(t.Context(), "hostile", []byte("x"), ""); !errors.Is(err, ErrBusy) || time.Since(began) != parseTime {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
		}
		synctest.Wait()
		for range 3 {
			if _, err := p.Parse(t.Context(), "other", []byte("x"), ""); err == nil || errors.Is(err, ErrBusy) {
				t.Errorf("another namespace: %v", err)
			}
		}
		group.Wait()
		release()
		if _, err := p.Parse(t.Context(), "hostile", []byte("x"), ""); err == nil || errors.Is(err, ErrBusy) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// fuzz.sh: slow
func FuzzKeyFile(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "")
	f.Add([]byte{0x30, 0x80, 0, 0}, "x")
	f.Fuzz(func(t *testing.T, data []byte, password string) {
		if pair, err := newParser().Parse(t.Context(), "ns", data, password); err == nil && len(pair.Chain) == 0 {
			t.Error("a key without a certificate")
		}
	})
}
