package main

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestReal builds a release of this checkout's commit as `make release` does, twice, and uses it.
// PODID_TEST_RELEASE=1 builds for every platform, PODID_TEST_RELEASE=linux/amd64 for that alone.
func TestReal(t *testing.T) {
	if os.Getenv("PODID_TEST_RELEASE") == "" {
		t.Skip("PODID_TEST_RELEASE is not set: run make test-release")
	}
	source := cloneOf(t, "../..")
	first, r := buildReal(t, source)
	t.Run("reproducible", func(t *testing.T) {
		second, _ := buildReal(t, cloneOf(t, source))
		if diff := cmp.Diff(tree(t, first), tree(t, second)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("kubectl", func(t *testing.T) { checkPlugin(t, first) })
	t.Run("demo", func(t *testing.T) { checkDownloaded(t, first, r) })
	t.Run("arm64", func(t *testing.T) { checkPrograms(t, first, r) })
}

func cloneOf(t *testing.T, repository string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "clone")
	runGit(t, repository, "clone", "-q", "--no-local", ".", to)
	return to
}

// buildReal builds a clone of this repository.
func buildReal(t *testing.T, source string) (string, release) {
	t.Helper()
	dist := filepath.Join(t.TempDir(), "dist")
	r, err := describe(t.Context(), source, "")
	if err != nil {
		t.Fatal(err)
	}
	b := builder{release: r, source: source, out: dist, helm: helm(t), goBuild: goBuild, getenv: os.Getenv, log: t.Output()}
	if text := os.Getenv("PODID_TEST_RELEASE"); text != "1" {
		if b.only, err = parsePlatform(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.all(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dist, r
}

// checkPlugin runs podid as kubectl does.
func checkPlugin(t *testing.T, dist string) {
	t.Helper()
	bin := t.TempDir()
	podid, err := filepath.Abs(filepath.Join(dist, "bin", runtime.GOOS+"_"+runtime.GOARCH, "podid"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(podid, filepath.Join(bin, "kubectl-podid")); err != nil { // as krew does
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), "podid", "identity", "--help")
	cmd.Env = append(os.Environ(), "PATH="+bin)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "kubectl podid identity") {
		t.Errorf("%v\n%s", err, out)
	}
}

// emulator returns the program that runs arm64 programs.
func emulator(t *testing.T) string {
	t.Helper()
	file, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Fatal("there is no qemu-aarch64-static: make test-release installs it")
	}
	return file
}

// checkPrograms runs the arm64 programs of a release.
func checkPrograms(t *testing.T, dist string, r release) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dist, "bin/linux_arm64")); err != nil {
		t.Skip("it was built for another platform alone")
	}
	qemu := emulator(t)
	want := r.Version + " (commit " + r.Commit + ", date " + r.Date.Format(time.RFC3339)
	for _, name := range []string{"mic", "nmi", "nmi-holder", "podid", "demo"} {
		out, err := exec.CommandContext(t.Context(), qemu, filepath.Join(dist, "bin/linux_arm64", name), "--version").CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s --version: %v\n%s", name, err, out)
		}
	}
	t.Run("start", func(t *testing.T) { checkEmulator(t, qemu, filepath.Join(dist, "bin/linux_arm64/podid")) })
}

// checkEmulator starts the emulated Azure, which makes keys and certificates, listens and answers,
// and interrupts it.
func checkEmulator(t *testing.T, qemu, podid string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it needs some seconds
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, podid, "emulator", "--dir", t.TempDir(), "--arm-address", "127.0.0.1:0",
		"--entra-address", "127.0.0.1:0", "--imds-address", "127.0.0.1:0", "--control-address", "127.0.0.1:0")
	printed, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	control := ""
	for lines := bufio.NewScanner(printed); lines.Scan() && lines.Text() != "ready"; {
		if rest, ok := strings.CutPrefix(lines.Text(), "control"); ok {
			control = strings.TrimSpace(rest)
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, control+"/v1/settings", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("it answers %s", answer.Status)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}

// TestPureOnARM runs the unit tests of packages that touch neither kernel nor network, compiled for
// arm64.
func TestPureOnARM(t *testing.T) {
	if os.Getenv("PODID_TEST_RELEASE") == "" {
		t.Skip("PODID_TEST_RELEASE is not set: run make test-release")
	}
	qemu := emulator(t)
	for _, pkg := range []string{"ascii", "assignment", "build", "identity", "ledger", "reason", "secretvalue", "sandbox/image"} {
		t.Run(pkg, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "test")
			compile := exec.CommandContext(t.Context(), "go", "test", "-c", "-trimpath", "-o", program, "./internal/"+pkg)
			compile.Dir = "../.."
			compile.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
			if out, err := compile.CombinedOutput(); err != nil {
				t.Fatalf("compile: %v\n%s", err, out)
			}
			cmd := exec.CommandContext(t.Context(), qemu, program, "-test.v")
			cmd.Dir = filepath.Join("../../internal", pkg)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
