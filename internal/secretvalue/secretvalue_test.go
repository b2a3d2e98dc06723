package secretvalue_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/podid-io/podid/internal/secretvalue"
)

const secret = "abc8Q~dEf.GhI-jKl_mNoPqRsTuVwXyZ01234567"

// inUTF16 encodes a text as PowerShell's > does.
func inUTF16(text string) string {
	out := "\xff\xfe"
	for _, unit := range utf16.Encode([]rune(text)) {
		out += string([]byte{byte(unit), byte(unit >> 8)})
	}
	return out
}

func TestClientSecret(t *testing.T) {
	bigEndian := "\xfe\xff"
	for _, unit := range utf16.Encode([]rune(secret)) {
		bigEndian += string([]byte{byte(unit >> 8), byte(unit)})
	}
	legacy := base64.StdEncoding.EncodeToString([]byte("32 bytes of a secret of old days")) // as the portal made them in the past
	for _, c := range []struct {
		name, data, want string
		err              error
	}{
		{"plain", secret, secret, nil},
		{"line end", secret + "\n", secret, nil},
		{"Windows' line end", secret + "\r\n", secret, nil},
		{"blanks around", " \t" + secret + " \n\n", secret, nil},
		{"byte order mark", "\xef\xbb\xbf" + secret, secret, nil},
		{"byte order mark and line end", "\xef\xbb\xbf" + secret + "\r\n", secret, nil},
		{"UTF-16", inUTF16(secret + "\r\n"), secret, nil},
		{"UTF-16, the other order", bigEndian, secret, nil},
		{"old secret", legacy, legacy, nil},
		{"hexadecimal", strings.Repeat("30", 40), strings.Repeat("30", 40), nil},
		{"short", "x", "x", nil},
		{"not ASCII", "pässword", "pässword", nil},
		{"empty", "", "", nil},
		{"only a mark and a line end", "\xef\xbb\xbf\n", "", nil},
		{"two lines", "a\nb", "", secretvalue.ErrNotText},
		{"binary", "a\x00b", "", secretvalue.ErrNotText},
		{"not UTF-8", "a\xffb", "", secretvalue.ErrNotText},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := secretvalue.ClientSecret([]byte(c.data))
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestPassword(t *testing.T) {
	for data, want := range map[string]string{
		"": "", "pass": "pass", "pass\r\n": "pass", "pass \n": "pass ", " pass": " pass", "\xef\xbb\xbfpass\n": "pass", inUTF16("pass\r\n"): "pass",
	} {
		if got := secretvalue.Password([]byte(data)); got != want {
			t.Errorf("%q: got %q, want %q", data, got, want)
		}
	}
}

// TestKeyFiles checks that no form of a certificate or private key is accepted as a client secret.
func TestKeyFiles(t *testing.T) {
	for name, der := range keyFiles(t) {
		block := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		text := base64.StdEncoding.EncodeToString(der)
		for form, data := range map[string]string{
			"DER": string(der), "DER and a line end": string(der) + "\n",
			"PEM": block, "PEM in one line": strings.ReplaceAll(block, "\n", `\n`), "PEM, marked": "\xef\xbb\xbf" + block, "PEM in UTF-16": inUTF16(block),
			"PEM in base64": base64.StdEncoding.EncodeToString([]byte(block)),
			"base64":        text, "base64, marked": "\xef\xbb\xbf" + text + "\r\n", "base64 without padding": strings.TrimRight(text, "="),
			"base64 in lines": text[:20] + "\n" + text[20:] + "\n", "base64 twice": base64.StdEncoding.EncodeToString([]byte(text)),
		} {
			if _, err := secretvalue.ClientSecret([]byte(data)); !errors.Is(err, secretvalue.ErrKeyFile) {
				t.Errorf("%s, %s: %v, want it found to be a key", name, form, err)
			}
		}
	}
}

func keyFiles(t *testing.T) map[string][]byte {
	t.Helper()
	must := func(der []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	long, err2 := rsa.GenerateKey(rand.Reader, 2048)
	_, short, err3 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate := must(x509.CreateCertificate(rand.Reader, template, template, ec.Public(), ec))
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"EC, PKCS#8": must(x509.MarshalPKCS8PrivateKey(ec)), "EC, SEC 1": must(x509.MarshalECPrivateKey(ec)),
		"RSA, PKCS#8": must(x509.MarshalPKCS8PrivateKey(long)), "RSA, PKCS#1": x509.MarshalPKCS1PrivateKey(long),
		"Ed25519": must(x509.MarshalPKCS8PrivateKey(short)), "certificate": certificate,
		"PFX": must(pkcs12.Modern.Encode(ec, parsed, nil, "x")), "PFX without a password": must(pkcs12.Passwordless.Encode(ec, parsed, nil, "")),
	}
}

// FuzzClientSecret looks for a result that ClientSecret itself does not accept.
func FuzzClientSecret(f *testing.F) {
	f.Add([]byte("\xff\xfea\x00"))
	f.Add([]byte("\xef\xbb\xbfx\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := secretvalue.ClientSecret(data)
		if err != nil {
			return
		}
		if again, err := secretvalue.ClientSecret([]byte(got)); again != got || err != nil {
			t.Fatalf("%q: %q and then %q, %v", data, got, again, err)
		}
	})
}
