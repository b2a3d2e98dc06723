package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func TestIssue(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	a, err := NewAuthority(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	err = a.Issue(Subject{
		File: "node-0", User: "system:node:node-0", Group: "system:nodes",
		DNS: []string{"node-0"}, IPs: []netip.Addr{netip.MustParseAddr("10.200.0.10")},
	})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node-0.crt"), filepath.Join(dir, "node-0.key"))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil || !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("ca.crt: %v", err)
	}
	for _, name := range []string{"node-0", "10.200.0.10"} {
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, DNSName: name, CurrentTime: now.Add(time.Hour),
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		})
		if err != nil {
			t.Errorf("for %s: %v", name, err)
		}
	}
	if leaf.Subject.CommonName != "system:node:node-0" || leaf.Subject.Organization[0] != "system:nodes" {
		t.Errorf("subject %s", leaf.Subject)
	}
	for _, secret := range []string{"ca.key", "node-0.key"} {
		info, err := os.Stat(filepath.Join(dir, secret))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", secret, info.Mode(), err)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	a, err := NewAuthority(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Kubeconfig("admin", "https://10.0.0.1:6443"); err == nil {
		t.Error("a kubeconfig without its certificate is written")
	}
	if err := a.Issue(Subject{File: "admin", User: "admin", Group: "system:masters"}); err != nil {
		t.Fatal(err)
	}
	if err := a.Kubeconfig("admin", "https://10.0.0.1:6443"); err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Host != "https://10.0.0.1:6443" || len(cfg.CAData) == 0 || len(cfg.CertData) == 0 {
		t.Errorf("read back host %q", cfg.Host)
	}
}
