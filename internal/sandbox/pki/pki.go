// Package pki creates the cluster's certificate authority, its certificates and the kubeconfigs
// that use them.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// lifetime of all certificates is longer than any sandbox lives, and short enough for a leaked one
// not to matter.
const lifetime = 30 * 24 * time.Hour

// Authority signs certificates and writes them, with their keys, into one folder.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
	// now is the start of the certificates' validity.
	now time.Time
}

// Subject is the identity in a certificate.
type Subject struct {
	// File is the name of the files without .crt and .key.
	File string
	// User is the common name, Group the organization; Kubernetes reads them as user and group.
	User, Group string
	DNS         []string
	IPs         []netip.Addr
}

// NewAuthority creates a certificate authority and writes ca.crt and ca.key into the folder.
func NewAuthority(dir string, now time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	template, err := newTemplate("podid-sandbox-ca", "", now)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	a := &Authority{dir: dir, cert: cert, key: key, now: now}
	return a, a.write("ca", der, key)
}

// Issue creates a certificate for client and server use and writes it with its key.
func (a *Authority) Issue(s Subject) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", s.File, err)
	}
	template, err := newTemplate(s.User, s.Group, a.now)
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", s.File, err)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	template.DNSNames = s.DNS
	for _, ip := range s.IPs {
		template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", s.File, err)
	}
	return a.write(s.File, der, key)
}

// Kubeconfig writes File.kubeconfig for a certificate that Issue has written.
func (a *Authority) Kubeconfig(file, server string) error {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(a.dir, name))
		if err != nil {
			return nil
		}
		return b
	}
	ca, cert, key := read("ca.crt"), read(file+".crt"), read(file+".key")
	if ca == nil || cert == nil || key == nil {
		return fmt.Errorf("write %s.kubeconfig: its certificate is not there", file)
	}
	type named map[string]any
	doc := named{
		"apiVersion":      "v1",
		"kind":            "Config",
		"clusters":        []named{{"name": "sandbox", "cluster": named{"server": server, "certificate-authority-data": ca}}},
		"users":           []named{{"name": file, "user": named{"client-certificate-data": cert, "client-key-data": key}}},
		"contexts":        []named{{"name": "sandbox", "context": named{"cluster": "sandbox", "user": file}}},
		"current-context": "sandbox",
	}
	out, err := yaml.Marshal(doc)
	if err != nil {
		return fmt.Errorf("write %s.kubeconfig: %w", file, err)
	}
	if err := os.WriteFile(filepath.Join(a.dir, file+".kubeconfig"), out, 0o600); err != nil {
		return fmt.Errorf("write %s.kubeconfig: %w", file, err)
	}
	return nil
}

// ServiceAccountKeys writes sa.key and sa.pub, which sign and verify service account tokens.
func (a *Authority) ServiceAccountKeys() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make service account keys: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("make service account keys: %w", err)
	}
	files := map[string]*pem.Block{
		"sa.key": {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)},
		"sa.pub": {Type: "PUBLIC KEY", Bytes: public},
	}
	for name, block := range files {
		if err := os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return fmt.Errorf("make service account keys: %w", err)
		}
	}
	return nil
}

func (a *Authority) write(file string, der []byte, key *ecdsa.PrivateKey) error {
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("write certificate %s: %w", file, err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(a.dir, file+".crt"), cert, 0o644); err != nil {
		return fmt.Errorf("write certificate %s: %w", file, err)
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
	if err := os.WriteFile(filepath.Join(a.dir, file+".key"), secret, 0o600); err != nil {
		return fmt.Errorf("write certificate %s: %w", file, err)
	}
	return nil
}

func newTemplate(user, group string, now time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	name := pkix.Name{CommonName: user}
	if group != "" {
		name.Organization = []string{group}
	}
	const skew = 5 * time.Minute // tolerates a clock that is set back
	return &x509.Certificate{SerialNumber: serial, Subject: name, NotBefore: now.Add(-skew), NotAfter: now.Add(lifetime)}, nil
}
