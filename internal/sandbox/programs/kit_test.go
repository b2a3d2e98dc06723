package programs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/build"
	"github.com/podid-io/podid/internal/sandbox/progress"
)

// The pins are copies, because a module cannot embed files of another one.
func TestPins(t *testing.T) {
	for _, name := range []string{"go.mod", "go.sum"} {
		want, err := os.ReadFile(filepath.Join("../../..", kubernetesModule, name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pins.ReadFile("pins/" + name + ".txt"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the copy of %s differs, %v: run make generate", name, err)
		}
	}
}

func TestNoKit(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if _, err := ownKit(os.Getenv); err == nil || !strings.Contains(err.Error(), "neither a release nor") {
		t.Errorf("got %v", err)
	}
}

func TestPublished(t *testing.T) {
	for version, want := range map[string]bool{
		"v1.2.3": true, "v1.2.3-rc.1": true, "v0.0.0-20261201000000-f17975900000": true, "v1.2.4-0.20261201000000-f17975900000": true,
		"v1.2.3-rc.1.0.20261201000000-f17975900000": true,
		"devel": false, "f179759": false, "v1.2.3-4-gf179759": false, "v1.2.3-dirty": false, "v1.2.3+dirty": false,
		"v0.0.0-20261201000000-f17975900000+dirty": false,
	} {
		if got := published(version); got != want {
			t.Errorf("%s: %t", version, got)
		}
	}
}

// imitation makes a folder that has what a checkout has, and a program helm.
func imitation(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module " + module + "\n", kubernetesModule + "/go.mod": "module x\n", "bin/helm": "#!/bin/sh\n",
	} {
		if err := writeFile(filepath.Join(dir, name), strings.NewReader(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Neither a folder of another user nor one of another module is a checkout: what is in it
// would run as root.
func TestIsCheckout(t *testing.T) {
	self := os.Geteuid()
	for _, tt := range []struct {
		name    string
		change  func(dir string) error
		trusted []int
		want    bool
		err     string
	}{
		{"own", nil, []int{self}, true, ""},
		{"of another user", nil, []int{self + 1}, false, "belongs to user"},
		{"other module", func(dir string) error { return os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module x\n"), 0o644) }, []int{self}, false, ""},
		{"no module", func(dir string) error { return os.Remove(filepath.Join(dir, "go.mod")) }, []int{self}, false, ""},
		{"no pins", func(dir string) error { return os.RemoveAll(filepath.Join(dir, kubernetesModule)) }, []int{self}, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := imitation(t)
			if tt.change != nil {
				if err := tt.change(dir); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			got := looksLikeCheckout(dir)
			if got {
				err = checkOwners(dir, tt.trusted)
				got = err == nil
			}
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%t, %v", got, err)
			}
		})
	}
	if diff := cmp.Diff([]int{0, 0, 1000}, callers(0, "1000")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{0, 5}, callers(5, "1000")); diff != "" {
		t.Errorf("a variable that anybody sets: %s", diff)
	}
}

// A released podid takes its own kit wherever it is called, and nothing takes programs of a folder
// that is not the kit.
func TestOwnKitFirst(t *testing.T) {
	dir := imitation(t)
	t.Chdir(dir)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if got, err := Source(); err != nil || got != dir {
		t.Errorf("a podid of no release: %s, %v", got, err)
	}
	if file, ok := prebuilt(dir, "helm"); ok {
		t.Errorf("it would run %s", file)
	}
	if err := os.Remove(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	if file, ok := prebuilt(dir, "helm"); ok {
		t.Errorf("without go.mod it would run %s", file)
	}
	link(t, strings.Repeat("0", 128))
	if got, err := Source(); err == nil {
		t.Errorf("a released podid takes %s", got)
	}
}

// A release gets its kit once, from the release of its version, and takes no other.
func TestKit(t *testing.T) {
	files := map[string]string{"bin/helm": "a program", "bin/mic": "another", kubernetesModule + "/go.mod": "module x\n", "charts/podid/Chart.yaml": "x"}
	archive := pack(t, files)
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		if !strings.HasPrefix(r.URL.Path, "/mirror/"+build.Version()+"/podid-sandbox_") {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(archive)
	}))
	defer server.Close()
	t.Setenv("PODID_RELEASE_MIRROR", server.URL+"/mirror")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	link(t, strings.Repeat("0", 128))
	if err := Ready(t.Context(), os.Getenv, progress.New(io.Discard)); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("another archive than the linked one: %v", err)
	}
	link(t, digest(archive))
	requests = 0
	for range 2 {
		if err := Ready(t.Context(), os.Getenv, progress.New(io.Discard)); err != nil {
			t.Fatal(err)
		}
	}
	if requests != 1 {
		t.Errorf("%d requests", requests)
	}
	source, err := Source()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(source, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if helm, err := Helm(t.Context(), os.Getenv, progress.New(io.Discard)); err != nil || helm != filepath.Join(source, "bin/helm") {
		t.Errorf("helm is %s, %v", helm, err)
	}
	if bin, err := Bin(); err != nil || bin != filepath.Join(source, "bin") {
		t.Errorf("programs are in %s, %v", bin, err)
	}
}

func TestUnpackTreeRefuses(t *testing.T) {
	dir := t.TempDir()
	archive := filepath.Join(dir, "x.tar.gz")
	if err := os.WriteFile(archive, pack(t, map[string]string{"../climbs": "x"}), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unpackTree(archive, filepath.Join(dir, "to")); err == nil {
		t.Error("a file outside of the folder was written")
	}
}

func link(t *testing.T, checksum string) {
	t.Helper()
	before := kitChecksum
	t.Cleanup(func() { kitChecksum = before })
	kitChecksum = checksum
}

func digest(content []byte) string {
	sum := sha512.Sum512(content)
	return hex.EncodeToString(sum[:])
}

func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	packed := gzip.NewWriter(&out)
	w := tar.NewWriter(packed)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
