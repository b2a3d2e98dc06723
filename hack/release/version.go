// The version of a release, which comes from git.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/build"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
	"sigs.k8s.io/yaml"
)

// release is what is known of a release before it is built.
type release struct {
	// Version begins with a v, for example v1.2.3. Without a tag it is v1.2.3-dev.g0123456789ab, where
	// v1.2.3 is the chart's version.
	Version string `json:"version"`
	// Tagged means that the version is a tag of the commit.
	Tagged bool   `json:"tagged"`
	Commit string `json:"commit"`
	// Date is the commit's time. It stands for the time of the build everywhere.
	Date time.Time `json:"date"`
	// Go is the toolchain that compiles it.
	Go string `json:"go"`
	// Changed means that files differ from the commit.
	Changed bool `json:"changed,omitempty"`
	// Partial means that it was built with -only.
	Partial bool `json:"partial,omitempty"`
}

// number returns the version without its v, as image tags and charts have it.
func (r release) number() string { return strings.TrimPrefix(r.Version, "v") }

// revision is the commit as programs and images name it.
func (r release) revision() string {
	if r.Changed {
		return r.Commit + "-dirty"
	}
	return r.Commit
}

// describe reads the release from the checkout's current commit. It is of the tag wanted, or of the
// highest one if that is empty.
func describe(ctx context.Context, source, wanted string) (release, error) {
	if err := isCheckout(ctx, source); err != nil {
		return release{}, err
	}
	commit, date, err := head(ctx, source)
	if err != nil {
		return release{}, err
	}
	tags, err := git(ctx, source, "tag", "--points-at", "HEAD")
	if err != nil {
		return release{}, err
	}
	changes, err := git(ctx, source, "status", "--porcelain")
	if err != nil {
		return release{}, err
	}
	base, err := chartVersion(source)
	if err != nil {
		return release{}, err
	}
	toolchain, err := toolchain(source)
	if err != nil {
		return release{}, err
	}
	r := release{Go: toolchain, Commit: commit, Date: date, Changed: changes != ""}
	tag, err := choose(strings.Fields(tags), wanted)
	if err != nil {
		return release{}, err
	}
	r.Version, r.Tagged = tag, tag != ""
	if r.Tagged && r.Changed {
		return release{}, fmt.Errorf("the commit has the tag %s, but files were changed or added since: commit or remove them", tag)
	}
	if !r.Tagged {
		r.Version, err = untagged(base, commit, r.Changed)
	}
	return r, err
}

// head returns the current commit and its date.
func head(ctx context.Context, source string) (commit string, date time.Time, err error) {
	facts, err := git(ctx, source, "log", "-1", "--no-show-signature", "--format=%H %ct")
	if err != nil {
		return "", date, err
	}
	commit, seconds, _ := strings.Cut(facts, " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return "", date, fmt.Errorf("read the commit's time: %w", err)
	}
	return commit, time.Unix(unix, 0).UTC(), nil
}

// isCheckout fails if the folder is inside a checkout of something else, whose version is another.
func isCheckout(ctx context.Context, source string) error {
	top, err := git(ctx, source, "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	topInfo, err := os.Stat(top)
	if err != nil {
		return fmt.Errorf("find the checkout: %w", err)
	}
	own, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("find the checkout: %w", err)
	}
	if !os.SameFile(topInfo, own) {
		return fmt.Errorf("ask git, which needs a checkout: %s is only a folder in that of %s", source, top)
	}
	return nil
}

// choose returns the wanted tag, or the highest that is a version of a release, or nothing.
func choose(tags []string, wanted string) (string, error) {
	tags = slices.DeleteFunc(tags, func(tag string) bool { _, ok := build.ReleaseNumber(tag); return !ok })
	if wanted != "" {
		if _, ok := build.ReleaseNumber(wanted); !ok {
			return "", fmt.Errorf("%q is not a version of a release such as v1.2.3 or v1.2.3-rc.1", wanted)
		}
		if !slices.Contains(tags, wanted) {
			return "", fmt.Errorf("the tag %s is not on the current commit: check it out", wanted)
		}
		return wanted, nil
	}
	if len(tags) == 0 {
		return "", nil
	}
	return slices.MaxFunc(tags, semver.Compare), nil
}

// untagged returns a version that is none of a release. It sorts before the chart's, unless that is
// a candidate.
func untagged(base, commit string, changed bool) (string, error) {
	if _, ok := build.ReleaseNumber("v" + base); !ok {
		return "", fmt.Errorf("the chart's version %q is not of the form 1.2.3", base)
	}
	const digits = 12
	v := "v" + base + "-dev.g" + commit[:min(digits, len(commit))]
	if changed {
		v += ".dirty"
	}
	return v, nil
}

func chartVersion(source string) (string, error) {
	content, err := os.ReadFile(filepath.Join(source, "charts/podid/Chart.yaml"))
	if err != nil {
		return "", fmt.Errorf("read the chart's version: %w", err)
	}
	var chart struct{ Version string }
	if err := yaml.Unmarshal(content, &chart); err != nil {
		return "", fmt.Errorf("read the chart's version: %w", err)
	}
	return chart.Version, nil
}

// toolchain returns the version of Go that go.mod names, for example go1.26.8.
func toolchain(source string) (string, error) {
	content, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("read the version of Go: %w", err)
	}
	file, err := modfile.Parse("go.mod", content, nil)
	if err != nil {
		return "", fmt.Errorf("read the version of Go: %w", err)
	}
	if file.Toolchain == nil {
		return "", errors.New("read the version of Go: go.mod has no line such as \"toolchain go1.26.8\"")
	}
	return file.Toolchain.Name, nil
}

func git(ctx context.Context, source string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", source}, args...)...)
	cmd.Env = withoutGit(os.Environ())
	out, err := output(cmd)
	if err != nil {
		return "", fmt.Errorf("ask git, which needs a checkout: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// withoutGit removes the variables that make git use another repository than that of the folder: a
// hook of git has them.
func withoutGit(environment []string) []string {
	return slices.DeleteFunc(environment, func(v string) bool { return strings.HasPrefix(v, "GIT_") })
}

// output runs a program and returns what it printed. The error contains what it printed on standard
// error.
func output(cmd *exec.Cmd) ([]byte, error) {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}
