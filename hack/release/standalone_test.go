package main

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// alone returns a command in an empty folder, with an empty cache that has Kubernetes and Debian's
// packages alone, which podid would download.
func alone(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	own, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	if err := os.Mkdir(filepath.Join(cache, "podid"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kubernetes", "debian"} {
		there := filepath.Join(own, "podid", name)
		if _, err := os.Stat(there); errors.Is(err, fs.ErrNotExist) {
			continue // Debian's own packages are installed
		}
		if err := os.Symlink(there, filepath.Join(cache, "podid", name)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = t.TempDir()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); !strings.HasPrefix(name, "PODID_") && name != "KUBEBUILDER_ASSETS" {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+cache, "PODID_KUBERNETES=source") // tests never download it
	return cmd
}

// checkDemo runs the demonstration, which must end with a token and a refusal.
func checkDemo(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"it has the token", "was refused after"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	t.Logf("%s", out)
}

// checkDownloaded unpacks podid from a release's archive, serves the release, and runs the
// demonstration with that alone.
func checkDownloaded(t *testing.T, dist string, r release) {
	t.Helper()
	server := httptest.NewServer(http.StripPrefix("/"+r.Version+"/", http.FileServer(http.Dir(filepath.Join(dist, assetsDir)))))
	defer server.Close()
	program := filepath.Join(t.TempDir(), "podid")
	unpackProgram(t, filepath.Join(dist, assetsDir, "podid_"+r.number()+"_linux_"+runtime.GOARCH+".tar.gz"), program)
	cmd := alone(t, program, "sandbox", "demo", "--name", "released")
	cmd.Env = append(cmd.Env, "PODID_RELEASE_MIRROR="+server.URL, "PATH=/usr/sbin:/usr/bin:/sbin:/bin") // without Go
	checkDemo(t, cmd)
}

func unpackProgram(t *testing.T, archive, to string) {
	t.Helper()
	packed, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	content, err := fromArchive(packed, "podid")
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestInstalled runs `go install` of a version of this module that is in no repository, and the
// demonstration with the podid that it gives.
func TestInstalled(t *testing.T) {
	if os.Getenv("PODID_TEST_RELEASE") == "" {
		t.Skip("PODID_TEST_RELEASE is not set: run make test-release")
	}
	const version = "v0.9.8"
	proxy := moduleProxy(t, version)
	bin := t.TempDir()
	cmd := alone(t, "go", "install", project+"/cmd/podid@"+version)
	cmd.Env = append(cmd.Env, "GOBIN="+bin)
	cmd.Env = append(cmd.Env, goEnvironment(t, proxy)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	demo := alone(t, filepath.Join(bin, "podid"), "sandbox", "demo", "--name", "installed")
	demo.Env = append(demo.Env, goEnvironment(t, proxy)...)
	checkDemo(t, demo)
}

// moduleProxy makes a module proxy of files that has this module alone, as a proxy would keep it:
// without the modules inside of it.
func moduleProxy(t *testing.T, version string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), project, "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	source := cloneOf(t, "../..")
	f, err := os.Create(filepath.Join(dir, version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(zip.CreateFromDir(f, module.Version{Path: project, Version: version}, source), f.Close()); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "list"), version+"\n")
	write(t, filepath.Join(dir, version+".info"), `{"Version":"`+version+`","Time":"2026-01-02T03:04:05Z"}`)
	write(t, filepath.Join(dir, version+".mod"), read(t, filepath.Join(source, "go.mod")))
	return "file://" + strings.TrimSuffix(dir, "/"+project+"/@v")
}

// goEnvironment makes the go command unpack all modules into a cache of its own, this one from the
// proxy and all others from what the machine has downloaded. With these flags, the compiler's cache
// serves although the folders differ.
func goEnvironment(t *testing.T, proxy string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	dirs := strings.Fields(string(out))
	return []string{
		"GOMODCACHE=" + filepath.Join(t.TempDir(), "mod"), "GOCACHE=" + dirs[1],
		"GOFLAGS=-modcacherw -trimpath", "CGO_ENABLED=0", "GOSUMDB=off", "GOPROXY=" + proxy + ",file://" + filepath.Join(dirs[0], "cache/download") + ",off",
	}
}
