package programs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseVersion(t *testing.T) {
	tests := []struct {
		out  string
		want version
	}{
		{"Kubernetes v1.34.4\n", version{1, 34, 4}},
		{"Client Version: v1.32.0\nKustomize Version: v5.5.0\n", version{1, 32, 0}},
		{"etcd Version: 3.6.16\nGit SHA: Not provided\nGo Version: go1.26.8\n", version{3, 6, 16}},
		{"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n", version{1, 6, 20}},
		{"containerd-shim-runc-v2:\n  Version:  1.7.2\n", version{1, 7, 2}},
		{"ctr github.com/containerd/containerd v2.0.0\n", version{2, 0, 0}},
		{"runc version 1.1.5+ds1\ncommit: 1.1.5\n", version{1, 1, 5}},
		{"nftables v1.0.6 (Lester Gooch #5)\n", version{1, 0, 6}},
		{"no such thing\n", version{}},
	}
	for _, tt := range tests {
		got, line, err := parseVersion(tt.out)
		if got != tt.want || (err == nil) != (tt.want != version{}) {
			t.Errorf("%q gives %v, %v", tt.out, got, err)
		}
		if err == nil && !strings.Contains(tt.out, line) {
			t.Errorf("%q gives the line %q", tt.out, line)
		}
	}
}

func TestFits(t *testing.T) {
	kubelet, etcd := kind{source: kubernetes("kubelet")}, kind{least: version{3, 5, 13}}
	tests := []struct {
		name string
		kind kind
		v    version
		want bool
	}{
		{"same minor", kubelet, version{1, 34, 9}, true},
		{"older minor", kubelet, version{1, 32, 0}, false},
		{"newer minor", kubelet, version{1, 35, 0}, false},
		{"old etcd", etcd, version{3, 4, 23}, false},
		{"old patch", etcd, version{3, 5, 12}, false},
		{"just enough", etcd, version{3, 5, 13}, true},
		{"newer", etcd, version{3, 6, 0}, true},
	}
	for _, tt := range tests {
		if got := tt.kind.fits(tt.v, "v1.34.4"); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestRequired(t *testing.T) {
	const gomod = "module x\n\ngo 1.26\n\nreplace k8s.io/api => k8s.io/api v0.34.4\n\nrequire k8s.io/kubernetes v1.34.4\n\nrequire (\n\tgo.etcd.io/etcd/server/v3 v3.6.16\n)\n"
	for module, want := range map[string]string{"k8s.io/kubernetes": "v1.34.4", "go.etcd.io/etcd/server/v3": "v3.6.16", "x/y": ""} {
		got, err := required(gomod, module)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", module, got, err)
		}
	}
}

func TestCache(t *testing.T) {
	tests := []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/podid"},
		{map[string]string{"HOME": "/h"}, "/h/.cache/podid"},
		{map[string]string{"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/podid"},
		{map[string]string{}, ""},
	}
	for _, tt := range tests {
		got, err := Cache(func(k string) string { return tt.env[k] })
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%v gives %q, %v", tt.env, got, err)
		}
	}
}

// KUBEBUILDER_ASSETS comes before the cache, and the cache before PATH. The folder that Prepare
// makes itself only holds links.
func TestCandidates(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, "kubectl"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path)
	kubectl := kind{name: "kubectl", source: kubernetes("kubectl")}
	p := preparation{cache: "/cache", getenv: func(string) string { return "/assets" }}
	want := []string{"/assets/kubectl", "/own/kubectl", filepath.Join(path, "kubectl")}
	if diff := cmp.Diff(want, p.candidates(kubectl, "/own/kubectl")); diff != "" {
		t.Error(diff)
	}
	p.getenv = func(string) string { return "/cache/assets" }
	if diff := cmp.Diff(want[1:], p.candidates(kubectl, "/own/kubectl")); diff != "" {
		t.Error(diff)
	}
}

func TestLinkAssets(t *testing.T) {
	cache := t.TempDir()
	p := preparation{cache: cache, set: Set{Paths: map[string]string{"etcd": "/a/etcd", "kubelet": "/a/kubelet"}}}
	for _, file := range []string{"/a/etcd", "/b/etcd", "/b/etcd"} {
		p.set.Paths["etcd"] = file
		if err := p.linkAssets(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(filepath.Join(cache, "assets/etcd")); err != nil || got != file {
			t.Errorf("link to %q, %v", got, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(cache, "assets/kubelet")); err == nil {
		t.Error("a program that tests do not need is linked")
	}
}

func TestFollow(t *testing.T) {
	var seen []int
	last := follow(strings.NewReader(strings.Repeat("a\n", 30)+"boom\n"), func(n int) { seen = append(seen, n) })
	if len(last) != 20 || last[19] != "boom" || len(seen) != 31 || seen[30] != 31 {
		t.Errorf("kept %d lines, reported %d times", len(last), len(seen))
	}
}

// An etcd that an earlier version of this checkout pinned still counts.
func TestOlderCache(t *testing.T) {
	cache := t.TempDir()
	writeScript(t, filepath.Join(cache, "etcd/v3.6.16/etcd"), "etcd Version: 3.6.16")
	p := preparation{cache: cache, checkout: checkout(t), getenv: func(string) string { return "" }, set: Set{Paths: map[string]string{}}}
	etcd := kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == "etcd" })]
	found, err := p.find(t.Context(), etcd)
	if want := filepath.Join(cache, "etcd/v3.6.16/etcd"); err != nil || !found || p.set.Paths["etcd"] != want {
		t.Errorf("found %v in %q, %v", found, p.set.Paths["etcd"], err)
	}
}

func TestBinary(t *testing.T) {
	for pkg, want := range map[string]string{"k8s.io/kubernetes/cmd/kubelet": "kubelet", "go.etcd.io/etcd/server/v3": "server"} {
		if got := (&source{pkg: pkg}).binary(); got != want {
			t.Errorf("%s: %s", pkg, got)
		}
	}
}

// checkout returns a folder that pins Kubernetes and etcd.
func checkout(t *testing.T) string {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, kubernetesModule), 0o755); err != nil {
		t.Fatal(err)
	}
	gomod := "require (\n\tk8s.io/kubernetes v1.34.4\n\tgo.etcd.io/etcd/server/v3 v3.6.4\n)\n"
	if err := os.WriteFile(filepath.Join(dir, kubernetesModule, "go.mod"), []byte(gomod), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func script(output string) string { return "#!/bin/sh\necho '" + output + "'\n" }

func writeScript(t *testing.T, file, output string) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(script(output)), 0o755); err != nil {
		t.Fatal(err)
	}
}
