package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	spdxjson "github.com/spdx/tools-golang/json"
	"sigs.k8s.io/yaml"
)

func checkContents(t *testing.T, dist string) {
	t.Helper()
	assets := filepath.Join(dist, assetsDir)
	t.Run("images", func(t *testing.T) { checkImages(t, dist) })
	t.Run("SBOM", func(t *testing.T) { checkSBOM(t, assets) })
	t.Run("archives", func(t *testing.T) { checkArchives(t, assets) })
	t.Run("kit", func(t *testing.T) { checkKit(t, assets) })
	t.Run("krew", func(t *testing.T) { checkKrew(t, assets) })
	t.Run("manifests", func(t *testing.T) { checkManifests(t, assets) })
	t.Run("provenance", func(t *testing.T) { checkProvenance(t, dist) })
	t.Run("notes", func(t *testing.T) {
		if diff := cmp.Diff("### Added\n- this\n", read(t, filepath.Join(dist, notesFile))); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("checksums", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "--quiet", checksumsFile)
		cmd.Dir = assets
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		entries, err := os.ReadDir(assets)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(read(t, filepath.Join(assets, checksumsFile)), "\n"); lines != len(entries)-1 {
			t.Errorf("%d checksums of %d files", lines, len(entries)-1)
		}
	})
}

func checkImages(t *testing.T, dist string) {
	for name, entrypoint := range map[string]string{"mic": "/mic", "nmi": "/nmi", "demo": "/demo"} {
		index := onlyIndex(t, filepath.Join(dist, imagesDir, name))
		if err := validate.Index(index); err != nil {
			t.Errorf("image %s: %v", name, err)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		var platforms []string
		for _, m := range manifest.Manifests {
			platforms = append(platforms, m.Platform.String())
			img, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, name, entrypoint, img, m.Platform.Architecture)
		}
		if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
			t.Errorf("image %s: %s", name, diff)
		}
	}
}

func checkImage(t *testing.T, name, entrypoint string, img v1.Image, arch string) {
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != arch || config.Config.User != "65532:65532" || !slices.Equal(config.Config.Entrypoint, []string{entrypoint}) {
		t.Errorf("image %s for %s: %+v", name, arch, config)
	}
	if v := config.Config.Labels["org.opencontainers.image.version"]; v != "9.8.7" {
		t.Errorf("image %s: version %q", name, v)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("image %s: %d layers, %v", name, len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	if _, ok := unpack(t, content)["nmi-holder"]; ok != (name == "nmi") {
		t.Errorf("image %s: nmi-holder in it: %t", name, ok)
	}
}

func onlyIndex(t *testing.T, folder string) v1.ImageIndex {
	t.Helper()
	all, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := all.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%s: %+v, %v", folder, manifest, err)
	}
	if tag := manifest.Manifests[0].Annotations[tagAnnotation]; tag != "9.8.7" {
		t.Errorf("%s: tag %q", folder, tag)
	}
	index, err := all.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// The SPDX library reads what we wrote, and finds programs and modules in it.
func checkSBOM(t *testing.T, assets string) {
	f, err := os.Open(filepath.Join(assets, "nmi.spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	doc, err := spdxjson.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, p := range doc.Packages {
		found[p.PackageName]++
	}
	for name, want := range map[string]int{
		"nmi": 1 + 2, "nmi-holder": 2, "stdlib": 1, "golang.org/x/sync": 1,
	} {
		if found[name] != want {
			t.Errorf("%d packages %s, want %d", found[name], name, want)
		}
	}
	ids := map[string]bool{"DOCUMENT": true}
	for _, p := range doc.Packages {
		ids[string(p.PackageSPDXIdentifier)] = true
	}
	for _, r := range doc.Relationships {
		if !ids[string(r.RefA.ElementRefID)] || !ids[string(r.RefB.ElementRefID)] {
			t.Errorf("a relationship to nothing: %+v", r)
		}
	}
}

func checkArchives(t *testing.T, assets string) {
	for _, p := range clientPlatforms() {
		file := filepath.Join(assets, "podid_9.8.7_"+p.OS+"_"+p.Arch+extension(p))
		var names []string
		if p.OS == "windows" {
			r, err := zip.OpenReader(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range r.File {
				names = append(names, f.Name)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		} else {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := gzip.NewReader(f)
			if err != nil {
				t.Fatal(err)
			}
			for name := range unpack(t, plain) {
				names = append(names, name)
			}
			_ = f.Close()
		}
		slices.Sort(names)
		want := []string{"LICENSE", "podid"}
		if p.OS == "windows" {
			want[1] = "podid.exe"
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
	}
}

func checkKit(t *testing.T, assets string) {
	f, err := os.Open(filepath.Join(assets, "podid-sandbox_9.8.7_linux_arm64.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	plain, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, plain)
	if _, ok := files["charts/podid/editor.swp"]; ok {
		t.Error("a file that git ignores is in the kit")
	}
	for _, name := range []string{
		"bin/mic", "bin/nmi", "bin/nmi-holder", "bin/demo", "bin/pause", "bin/helm", "bin/etcd",
		"charts/podid/Chart.yaml", "charts/podid/templates/nmi-daemonset.yaml", "hack/kubernetes/go.mod",
	} {
		if mode, ok := files[name]; !ok || (mode == 0o755) != strings.HasPrefix(name, "bin/") {
			t.Errorf("%s: in the kit %t, mode %o", name, ok, mode)
		}
	}
}

// unpack returns the files of a tar archive, by name.
func unpack(t *testing.T, r io.Reader) map[string]int64 {
	t.Helper()
	files := map[string]int64{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = header.Mode
	}
}

func checkKrew(t *testing.T, assets string) {
	var plugin struct {
		Metadata struct{ Name string }
		Spec     struct {
			Version   string
			Platforms []struct{ URI, SHA256, Bin string }
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, filepath.Join(assets, "krew.yaml"))), &plugin); err != nil {
		t.Fatal(err)
	}
	if plugin.Metadata.Name != "podid" || plugin.Spec.Version != "v9.8.7" || len(plugin.Spec.Platforms) != len(clientPlatforms()) {
		t.Errorf("%+v", plugin)
	}
	for _, p := range plugin.Spec.Platforms {
		name, ok := strings.CutPrefix(p.URI, "https://github.com/podid-io/podid/releases/download/v9.8.7/")
		digest, err := fileDigest(filepath.Join(assets, name))
		if !ok || err != nil || digest.Hex != p.SHA256 {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func checkManifests(t *testing.T, assets string) {
	for mode, mic := range map[string]bool{"standard": true, "managed": false} {
		kinds := map[string]int{}
		text := read(t, filepath.Join(assets, "podid-"+mode+".yaml"))
		for doc := range strings.SplitSeq(text, "\n---\n") {
			var object struct {
				Kind     string
				Metadata struct{ Name string }
			}
			if err := yaml.Unmarshal([]byte(doc), &object); err != nil {
				t.Fatalf("mode %s: %v in\n%s", mode, err, doc)
			}
			kinds[object.Kind]++
		}
		if kinds["Namespace"] == 0 || kinds["CustomResourceDefinition"] < 4 || kinds["DaemonSet"] != 1 || kinds["Job"] != 0 || (kinds["Deployment"] == 1) != mic {
			t.Errorf("mode %s: %v", mode, kinds)
		}
		if !strings.Contains(text, "image: ghcr.io/podid-io/podid/nmi:9.8.7\n") && !strings.Contains(text, `image: "ghcr.io/podid-io/podid/nmi:9.8.7"`) {
			t.Errorf("mode %s: not the released image", mode)
		}
	}
}

func checkProvenance(t *testing.T, dist string) {
	var statement struct {
		Type, PredicateType string
		Subject             []struct {
			Name   string
			Digest map[string]string
		}
	}
	if err := json.Unmarshal([]byte(read(t, filepath.Join(dist, assetsDir, statementFile))), &statement); err != nil {
		t.Fatal(err)
	}
	if statement.PredicateType != "https://slsa.dev/provenance/v1" {
		t.Errorf("%+v", statement)
	}
	digests := map[string]string{}
	for _, s := range statement.Subject {
		digests[s.Name] = s.Digest["sha256"]
	}
	mic, err := onlyIndex(t, filepath.Join(dist, imagesDir, "mic")).Digest()
	if err != nil {
		t.Fatal(err)
	}
	chart, err := fileDigest(filepath.Join(dist, assetsDir, "podid-9.8.7.tgz"))
	if err != nil {
		t.Fatal(err)
	}
	if digests["mic:9.8.7"] != mic.Hex || digests["podid-9.8.7.tgz"] != chart.Hex {
		t.Errorf("not the digests of mic and chart: %v", digests)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
