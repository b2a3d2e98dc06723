package main

import (
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkout makes a repository with a tagged commit that holds what a release reads, apart from the
// programs.
func checkout(t *testing.T, tag string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "charts"), os.DirFS("../../charts")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "hack/kubernetes"), os.DirFS("../kubernetes")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "LICENSE"), "a license\n")
	write(t, filepath.Join(dir, "CHANGELOG.md"), "# Changelog\n\n## Unreleased\n\n- soon\n\n## 9.8.7 - 2026-01-02\n\n### Added\n- this\n\n## 9.8.6\n\n- older\n")
	commands := [][]string{{"init", "-q"}, {"add", "."}, {"commit", "-q", "-m", "all"}}
	if tag != "" {
		commands = append(commands, []string{"tag", tag})
	}
	for _, args := range commands {
		runGit(t, dir, args...)
	}
	return dir
}

func runGit(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=x", "GIT_AUTHOR_EMAIL=x@example.com", "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z",
		"GIT_COMMITTER_NAME=x", "GIT_COMMITTER_EMAIL=x@example.com", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// helm returns the program helm that make built, or skips the test.
func helm(t *testing.T) string {
	t.Helper()
	file := os.Getenv("PODID_HELM")
	if file == "" {
		t.Skip("PODID_HELM is not set: run make test-release")
	}
	return file
}

// standIn returns a compiler that knows one small program. It appends what it was asked for, so
// that the images differ.
func standIn(t *testing.T) func(context.Context, compilation) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	err := goBuild(t.Context(), compilation{
		source: ".", pkg: "./testdata/program", file: file, platform: platform{runtime.GOOS, runtime.GOARCH}, flags: []string{"-ldflags=-s -w"},
	})
	if err != nil {
		t.Fatal(err)
	}
	content := read(t, file)
	return func(_ context.Context, c compilation) error {
		if err := os.MkdirAll(filepath.Dir(c.file), 0o755); err != nil {
			return err
		}
		return os.WriteFile(c.file, []byte(content+c.pkg+c.platform.String()), 0o755)
	}
}

// build builds a release of the checkout.
func build(t *testing.T, source string, compiler func(context.Context, compilation) error) string {
	t.Helper()
	r, err := describe(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "dist")
	b := builder{release: r, source: source, out: out, helm: helm(t), goBuild: compiler, log: io.Discard}
	if err := b.all(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out
}

// tree returns the digest of every file below a folder.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		digest, err := fileDigest(file)
		files[strings.TrimPrefix(file, dir+"/")] = digest.Hex
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A release is built twice, from two clones of one commit that were made at different times and in
// different folders. Everything else is checked on the first.
func TestRelease(t *testing.T) {
	source := checkout(t, "v9.8.7")
	compiler := standIn(t)
	dist := build(t, source, compiler)
	t.Run("reproducible", func(t *testing.T) {
		clone := filepath.Join(t.TempDir(), "clone")
		runGit(t, source, "clone", "-q", source, clone)
		if diff := cmp.Diff(tree(t, dist), tree(t, build(t, clone, compiler))); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("contents", func(t *testing.T) { checkContents(t, dist) })
	t.Run("push", func(t *testing.T) { checkPush(t, dist) })
}

func TestVersion(t *testing.T) {
	const commit = "0123456789abcdef"
	for _, tt := range []struct {
		name    string
		tags    []string
		base    string
		changed bool
		want    string
		tagged  bool
		err     string
	}{
		{"tagged", []string{"v1.2.3"}, "0.1.0", false, "v1.2.3", true, ""},
		{"the first that is a version", []string{"weekly", "v1.2.4", "v1.2.3"}, "0.1.0", false, "v1.2.4", true, ""},
		{"candidate", []string{"v1.2.3-rc.1"}, "0.1.0", false, "v1.2.3-rc.1", true, ""},
		{"no tag", nil, "0.1.0", false, "v0.1.0-dev.g0123456789ab", false, ""},
		{"no tag, changed", nil, "0.1.0", true, "v0.1.0-dev.g0123456789ab.dirty", false, ""},
		{"tags of other things", []string{"v1", "hack/v1.2.3"}, "0.1.0", false, "v0.1.0-dev.g0123456789ab", false, ""},
		{"tagged, changed", []string{"v1.2.3"}, "0.1.0", true, "", false, "files were changed or added"},
		{"broken chart", nil, "one", false, "", false, "not of the form"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, tagged, err := version(tt.tags, tt.base, commit, tt.changed)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || got != tt.want || tagged != tt.tagged {
				t.Errorf("got %s, tagged %t, %v", got, tagged, err)
			}
		})
	}
}

func TestSection(t *testing.T) {
	const text = "# Changelog\n\n## Unreleased\n\n## [1.2.3] - 2026-01-02\n\n### Added\n- one\n\n## 1.2.2\n- two\n"
	for _, tt := range []struct{ name, want string }{
		{"1.2.3", "### Added\n- one\n"},
		{"1.2.2", "- two\n"},
		{"1.2", ""}, // no such version
		{"Unreleased", ""},
	} {
		got, err := section(text, tt.name)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

// A checkout without a tag gives a version that says so, and -tagged refuses it.
func TestUntagged(t *testing.T) {
	source := checkout(t, "")
	err := run(t.Context(), []string{"build", "-source", source, "-tagged"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "has no tag") {
		t.Errorf("got %v", err)
	}
	err = run(t.Context(), []string{"build", "-source", t.TempDir()}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "needs a checkout") {
		t.Errorf("outside of a repository: %v", err)
	}
}
