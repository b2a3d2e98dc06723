package main

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// checkPush shows that what a registry on the loopback address gets is what was built, for
// container engines and for Helm.
func checkPush(t *testing.T, dist string) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // no credentials of this machine
	var out bytes.Buffer
	for range 2 { // the second time, everything is there already
		out.Reset()
		if err := run(t.Context(), []string{"push", "-from", dist, host + "/podid/"}, &out); err != nil {
			t.Fatal(err)
		}
	}
	for _, image := range []string{"mic", "nmi", "demo"} {
		want, err := onlyIndex(t, filepath.Join(dist, imagesDir, image)).Digest()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "pushed "+host+"/podid/"+image+":9.8.7@"+want.String()) {
			t.Errorf("no digest of %s in\n%s", image, out.String())
		}
		pullImage(t, host+"/podid/"+image+":9.8.7", want)
		pullImage(t, host+"/podid/"+image+"@"+want.String(), want)
	}
	pullChart(t, dist, host)
	t.Run("other content", func(t *testing.T) { checkMoved(t, dist, host) })
}

// checkMoved shows that a released tag stays what it is, and that nothing is pushed beside it.
func checkMoved(t *testing.T, dist, host string) {
	t.Helper()
	other, err := random.Image(8, 1)
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]bool{"nmi": true, "mic": false} {
		ref, err := name.ParseReference(host + "/other/" + image + ":9.8.7")
		if err != nil {
			t.Fatal(err)
		}
		if want {
			if err := remote.Write(ref, other); err != nil {
				t.Fatal(err)
			}
			err := run(t.Context(), []string{"push", "-from", dist, host + "/other"}, io.Discard)
			if err == nil || !strings.Contains(err.Error(), "a released tag is not moved") {
				t.Errorf("got %v", err)
			}
		}
		if _, err := remote.Head(ref); (err == nil) != want {
			t.Errorf("%s: %v", image, err)
		}
	}
}

// pullImage pulls the image of each platform completely.
func pullImage(t *testing.T, from string, want v1.Hash) {
	t.Helper()
	ref, err := name.ParseReference(from)
	if err != nil {
		t.Fatal(err)
	}
	descriptor, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	if descriptor.Digest != want {
		t.Errorf("%s is %s, want %s", from, descriptor.Digest, want)
	}
	for _, p := range imagePlatforms() {
		img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: p.OS, Architecture: p.Arch}))
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil || config.Architecture != p.Arch {
			t.Fatalf("%s for %s: %+v, %v", from, p, config, err)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%s: %d layers, %v", from, len(layers), err)
		}
		content, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, content); err != nil { // it checks the digest, too
			t.Errorf("%s for %s: %v", from, p, err)
		}
	}
}

func pullChart(t *testing.T, dist, host string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), helm(t), "pull", "oci://"+host+"/podid/charts/podid", "--version", "9.8.7", "--plain-http")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+dir, "HELM_CACHE_HOME="+dir, "HELM_DATA_HOME="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if read(t, filepath.Join(dir, "podid-9.8.7.tgz")) != read(t, filepath.Join(dist, assetsDir, "podid-9.8.7.tgz")) {
		t.Error("helm pulled another chart than the one that was built")
	}
}

func TestPushRefuses(t *testing.T) {
	empty := t.TempDir()
	partial := t.TempDir()
	if err := os.Mkdir(filepath.Join(partial, assetsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(partial, assetsDir, summaryFile), `{"version": "v1.2.3", "partial": true}`)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"push"}, "name one registry"},
		{[]string{"push", ""}, "name one registry"},
		{[]string{"push", "-from", empty, "127.0.0.1:1/x"}, "run `make release` first"},
		{[]string{"push", "-from", partial, "127.0.0.1:1/x"}, "built with -only"},
		{[]string{"pull"}, "usage"},
		{nil, "usage"},
	} {
		if err := run(t.Context(), tt.args, io.Discard); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v", tt.args, err)
		}
	}
}
