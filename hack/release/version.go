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
	"regexp"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// semver is a tag of a release.
var semver = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)

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
}

// number returns the version without its v, as image tags and charts have it.
func (r release) number() string { return strings.TrimPrefix(r.Version, "v") }

// describe reads the release from the checkout's current commit.
func describe(ctx context.Context, source string) (release, error) {
	facts, err := git(ctx, source, "log", "-1", "--format=%H %ct")
	if err != nil {
		return release{}, err
	}
	commit, seconds, _ := strings.Cut(facts, " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return release{}, fmt.Errorf("read the commit's time: %w", err)
	}
	tags, err := git(ctx, source, "tag", "--points-at", "HEAD", "--sort=-version:refname")
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
	r := release{Commit: commit, Date: time.Unix(unix, 0).UTC()}
	r.Version, r.Tagged, err = version(strings.Fields(tags), base, commit, changes != "")
	return r, err
}

// version returns the highest tag. Without one it returns a version that sorts before the chart's.
func version(tags []string, base, commit string, changed bool) (v string, tagged bool, err error) {
	for _, tag := range tags {
		if !semver.MatchString(tag) {
			continue
		}
		if changed {
			return "", false, fmt.Errorf("the commit has the tag %s, but files were changed or added since: commit or remove them", tag)
		}
		return tag, true, nil
	}
	const digits = 12
	v = "v" + base + "-dev.g" + commit[:min(digits, len(commit))]
	if changed {
		v += ".dirty"
	}
	if !semver.MatchString(v) {
		return "", false, fmt.Errorf("the chart's version %q is not of the form 1.2.3", base)
	}
	return v, false, nil
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

func git(ctx context.Context, source string, args ...string) (string, error) {
	out, err := output(exec.CommandContext(ctx, "git", append([]string{"-C", source}, args...)...))
	if err != nil {
		return "", fmt.Errorf("read the version from git, which needs a checkout: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
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
