package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.WriteFile(data, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := Spec{Ref: "docker.io/podid/x:dev", Files: []File{{From: program, To: "/usr/bin/x"}, {From: data, To: "/etc/x"}}}
	first, second := filepath.Join(dir, "1.tar"), filepath.Join(dir, "2.tar")
	for _, archive := range []string{first, second} {
		if err := Write(spec, archive); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(read(t, first), read(t, second)) {
		t.Error("two builds of the same image differ")
	}
	img, err := tarball.ImageFromPath(first, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.Entrypoint[0] != "/usr/bin/x" || config.Config.User != nonroot || config.OS != "linux" {
		t.Errorf("config %+v", config.Config)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"-rw-r--r-- etc/x", "-rwxr-xr-x usr/bin/x", "drwxr-xr-x etc/", "drwxr-xr-x usr/", "drwxr-xr-x usr/bin/", "dtrwxrwxrwx tmp/"}
	got := list(t, content)
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))); diff != "" {
		t.Error(diff)
	}
}

func TestWriteRefuses(t *testing.T) {
	tests := []struct {
		name string
		spec Spec
	}{
		{"no tag", Spec{Ref: "docker.io/podid/x", Files: []File{{From: "/dev/null", To: "/x"}}}},
		{"no file", Spec{Ref: "docker.io/podid/x:dev"}},
		{"missing file", Spec{Ref: "docker.io/podid/x:dev", Files: []File{{From: "/nowhere", To: "/x"}}}},
		{"relative path", Spec{Ref: "docker.io/podid/x:dev", Files: []File{{From: "/dev/null", To: "x"}}}},
		{"path that climbs", Spec{Ref: "docker.io/podid/x:dev", Files: []File{{From: "/dev/null", To: "/a/../../x"}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			archive := filepath.Join(t.TempDir(), "x.tar")
			if err := Write(tt.spec, archive); err == nil {
				t.Error("it is written")
			}
			if _, err := os.Stat(archive); err == nil {
				t.Error("something is left")
			}
		})
	}
}

func list(t *testing.T, layer io.Reader) []string {
	t.Helper()
	var names []string
	for r := tar.NewReader(layer); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 0 {
			t.Errorf("%s has the time %s", h.Name, h.ModTime)
		}
		names = append(names, h.FileInfo().Mode().String()+" "+h.Name)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
