package controlplane

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/pki"
)

// Every file that a command line names is written by WritePKI.
func TestFilesExist(t *testing.T) {
	dir := t.TempDir()
	plan, err := network.NewPlan("x", 2)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.NewAuthority(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := WritePKI(authority, plan); err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, c := range (Config{API: plan.API.Addr(), PKI: dir, Data: "/data"}).Components() {
		for _, arg := range c.Args {
			_, value, _ := strings.Cut(arg, "=")
			if filepath.Dir(value) != dir {
				continue
			}
			named++
			if _, err := os.Stat(value); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	}
	if named < 10 {
		t.Errorf("only %d files are named", named)
	}
	for _, n := range plan.Nodes {
		if _, err := os.Stat(filepath.Join(dir, n.Name+".kubeconfig")); err != nil {
			t.Error(err)
		}
	}
}

func TestComponents(t *testing.T) {
	components := Config{API: netip.MustParseAddr("10.200.0.1"), PKI: "/pki", Data: "/data"}.Components()
	var names []string
	for _, c := range components {
		names = append(names, c.Name)
	}
	want := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
	if !slices.Equal(names, want) {
		t.Errorf("components %v", names)
	}
	if !slices.Contains(components[1].Args, "--advertise-address=10.200.0.1") || Server(netip.MustParseAddr("10.200.0.1")) != "https://10.200.0.1:6443" {
		t.Errorf("API server: %v", components[1].Args)
	}
}
