// Package build describes the build of the running program.
package build

import (
	"cmp"
	"fmt"
	"regexp"
	"runtime/debug"
)

// The release, its commit and that commit's time, set at link time:
// -ldflags "-X github.com/podid-io/podid/internal/build.version=v1.2.3".
// The linker can set nothing but variables.
var version, commit, date string //nolint:gochecknoglobals // as above

// Info describes the build of a binary.
type Info struct {
	// Version is the release, or what the Go toolchain derived from the repository. It is "devel" when
	// neither is known.
	Version string
	// Commit is the revision, with "-dirty" when the tree had changes. It is "unknown" outside a
	// repository.
	Commit string
	// Date is the commit's time in RFC 3339. It is not the time of the build, so that two builds of
	// one commit are the same. It is "unknown" outside a repository.
	Date string
	// GoVersion is the toolchain, for example go1.26.8.
	GoVersion string
}

// Describe returns the build information of the running binary.
func Describe() Info {
	linked := Info{Version: version, Commit: commit, Date: date}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return describe(linked, info)
}

// describe completes what was set at link time with what the Go toolchain recorded.
func describe(linked Info, info *debug.BuildInfo) Info {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	revision := settings["vcs.revision"]
	if revision != "" && settings["vcs.modified"] == "true" {
		revision += "-dirty"
	}
	module := info.Main.Version
	if module == "(devel)" {
		module = ""
	}
	return Info{
		Version:   cmp.Or(linked.Version, module, "devel"),
		Commit:    cmp.Or(linked.Commit, revision, "unknown"),
		Date:      cmp.Or(linked.Date, settings["vcs.time"], "unknown"),
		GoVersion: info.GoVersion,
	}
}

// Version returns the release of the running binary, "devel" when it has none.
func Version() string { return Describe().Version }

// releases are the versions that have images: not the ones that git or Go make up between two tags.
var releases = regexp.MustCompile(`^v((?:(?:0|[1-9][0-9]*)\.){2}(?:0|[1-9][0-9]*)(?:-(?:alpha|beta|rc)\.(?:0|[1-9][0-9]*))?)$`)

// Release returns the number of the running release, which is the tag of its images, for example
// 1.2.3. It reports false for any other build.
func Release() (number string, ok bool) { return ReleaseNumber(Version()) }

// ReleaseNumber returns the number of a version such as v1.2.3 or v1.2.3-rc.1. It reports false for
// what is no version of a release.
func ReleaseNumber(version string) (number string, ok bool) {
	m := releases.FindStringSubmatch(version)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// String returns the line that the flag version prints.
func (b Info) String() string {
	return fmt.Sprintf("%s (commit %s, date %s, %s)", b.Version, b.Commit, b.Date, b.GoVersion)
}

// UserAgent returns the name that a program sends to Azure and the API server, for example
// "podid-mic/v1.2.3".
func UserAgent(program string) string { return "podid-" + program + "/" + Version() }
