package main

import (
	"cmp"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
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
	write(t, filepath.Join(dir, ".gitignore"), "*.swp\n")
	write(t, filepath.Join(dir, "go.mod"), "module x\n\ngo 1.26.0\n\ntoolchain go1.26.5\n")
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
	cmd.Env = append(withoutGit(os.Environ()), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
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

// buildOf builds a release of the checkout.
func buildOf(t *testing.T, source string, compiler func(context.Context, compilation) error) string {
	t.Helper()
	r, err := describe(t.Context(), source, "")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "dist")
	b := builder{release: r, source: source, out: out, helm: helm(t), goBuild: compiler, getenv: func(string) string { return "" }, log: io.Discard}
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
	write(t, filepath.Join(source, "charts/podid/editor.swp"), "git ignores this\n")
	compiler := standIn(t)
	dist := buildOf(t, source, compiler)
	t.Run("reproducible", func(t *testing.T) {
		clone := filepath.Join(t.TempDir(), "clone")
		runGit(t, source, "clone", "-q", source, clone)
		if diff := gocmp.Diff(tree(t, dist), tree(t, buildOf(t, clone, compiler))); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("contents", func(t *testing.T) { checkContents(t, dist) })
	t.Run("push", func(t *testing.T) { checkPush(t, dist) })
}

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		name   string
		tags   []string
		wanted string
		want   string
		err    string
	}{
		{"one", []string{"v1.2.3"}, "", "v1.2.3", ""},
		{"the highest that is a version", []string{"weekly", "v1.2.9", "v1.2.10", "v1.2.3"}, "", "v1.2.10", ""},
		{"candidate", []string{"v1.2.3-rc.1"}, "", "v1.2.3-rc.1", ""},
		{"none", nil, "", "", ""},
		{"tags of other things", []string{"v1", "hack/v1.2.3", "v1.2.3-weekly", "v01.2.3"}, "", "", ""},
		{"wanted", []string{"v1.2.3", "v1.2.3-rc.1"}, "v1.2.3-rc.1", "v1.2.3-rc.1", ""},
		{"wanted, but elsewhere", []string{"v1.2.3"}, "v1.2.4", "", "not on the current commit"},
		{"wanted, but no version", []string{"weekly"}, "weekly", "", "not a version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := choose(tt.tags, tt.wanted)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
}

func TestUntaggedVersion(t *testing.T) {
	for _, tt := range []struct {
		base    string
		changed bool
		want    string
	}{
		{"0.1.0", false, "v0.1.0-dev.g0123456789ab"},
		{"0.1.0", true, "v0.1.0-dev.g0123456789ab.dirty"},
		{"one", false, ""},
	} {
		got, err := untagged(tt.base, "0123456789abcdef", tt.changed)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s, changed %t: %q, %v", tt.base, tt.changed, got, err)
		}
	}
}

// What git says of a repository: the release and its candidate are one commit, variables of a hook
// point to another repository, and files may change.
func TestDescribe(t *testing.T) {
	source := checkout(t, "v9.8.7")
	runGit(t, source, "tag", "v9.8.7-rc.1")
	other := checkout(t, "v1.0.0")
	t.Setenv("GIT_DIR", filepath.Join(other, ".git"))
	for _, wanted := range []string{"", "v9.8.7", "v9.8.7-rc.1"} {
		if r, err := describe(t.Context(), source, wanted); err != nil || r.Version != cmp.Or(wanted, "v9.8.7") || !r.Tagged {
			t.Errorf("%q: %+v, %v", wanted, r, err)
		}
	}
	if _, err := describe(t.Context(), source, "v1.0.0"); err == nil {
		t.Error("it takes a tag of another repository")
	}
	if _, err := describe(t.Context(), filepath.Join(source, "charts"), ""); err == nil || !strings.Contains(err.Error(), "needs a checkout") {
		t.Errorf("a folder inside a repository: %v", err)
	}
	write(t, filepath.Join(source, "LICENSE"), "another license\n")
	if _, err := describe(t.Context(), source, ""); err == nil || !strings.Contains(err.Error(), "files were changed or added") {
		t.Errorf("with changes: %v", err)
	}
}

// A build on GitHub names its workflow and repository, any other one "local", and one
// of changed files no source.
func TestOrigin(t *testing.T) {
	github := map[string]string{
		"GITHUB_SERVER_URL": "https://github.example", "GITHUB_REPOSITORY": "me/fork", "GITHUB_WORKFLOW_REF": "me/fork/.github/workflows/release.yml@refs/tags/v1.2.3",
	}
	commit := strings.Repeat("0", 40)
	for _, tt := range []struct {
		name            string
		env             map[string]string
		changed         bool
		source, builder string
	}{
		{"workflow", github, false, "git+https://github.example/me/fork@refs/tags/v1.2.3", "https://github.example/" + github["GITHUB_WORKFLOW_REF"]},
		{"local", nil, false, "local", "local"},
		{"changed", github, true, "", "https://github.example/" + github["GITHUB_WORKFLOW_REF"]},
	} {
		b := builder{
			release: release{Version: "v1.2.3", Tagged: true, Commit: commit, Changed: tt.changed},
			getenv:  func(name string) string { return tt.env[name] }, log: io.Discard,
		}
		source, builder := b.origin()
		if builder != tt.builder || len(source) > 1 || (len(source) == 0) != (tt.source == "") {
			t.Fatalf("%s: %v, %s", tt.name, source, builder)
		}
		if tt.source != "" && (source[0].GetUri()+source[0].GetName() != tt.source || source[0].GetDigest()["gitCommit"] != commit) {
			t.Errorf("%s: %v", tt.name, source)
		}
		if _, err := b.statement([]subject{{Name: "x", Digest: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}}}); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// What a developer has set for the compiler changes nothing.
func TestCompilerSettings(t *testing.T) {
	compile := func() string {
		file := filepath.Join(t.TempDir(), "program")
		err := goBuild(t.Context(), compilation{source: ".", pkg: "./testdata/program", file: file, platform: platform{runtime.GOOS, runtime.GOARCH}})
		if err != nil {
			t.Fatal(err)
		}
		return read(t, file)
	}
	before := compile()
	settings := filepath.Join(t.TempDir(), "env")
	write(t, settings, "GOAMD64=v2\nGOARM64=v9.0\n")
	for name, value := range map[string]string{"GOENV": settings, "GOAMD64": "v2", "GOARM64": "v9.0", "GOFLAGS": "-race", "GOFIPS140": "latest"} {
		t.Setenv(name, value)
	}
	if compile() != before {
		t.Error("settings of the environment change the program")
	}
}

// The workflows compile with the version that local builds of a release use.
func TestWorkflowToolchain(t *testing.T) {
	want, err := toolchain("../..")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../.github/workflows/*.yml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		found := 0
		for line := range strings.Lines(read(t, file)) {
			if version, ok := strings.CutPrefix(strings.TrimSpace(line), "go-version: "); ok {
				found++
				if !strings.HasPrefix("go"+version, want+" ") {
					t.Errorf("%s: %s, want %s", file, version, want)
				}
			}
		}
		if found == 0 {
			t.Errorf("%s names no version of Go", file)
		}
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
	err = run(t.Context(), []string{"build", "-source", t.TempDir()}, io.Discard) // even below a checkout
	if err == nil || !strings.Contains(err.Error(), "needs a checkout") {
		t.Errorf("outside of a repository: %v", err)
	}
}
