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

// outside changes to a folder without a checkout, and to an empty cache.
func outside(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if _, err := Source(); err == nil {
		t.Fatal("there is a checkout above the folder for temporary files")
	}
}

func TestNoKit(t *testing.T) {
	outside(t)
	err := Ready(t.Context(), os.Getenv, progress.New(io.Discard))
	if err == nil || !strings.Contains(err.Error(), "neither a release nor") {
		t.Errorf("got %v", err)
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
	outside(t)
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
