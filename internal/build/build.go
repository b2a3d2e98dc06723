// Package build describes the build of the running program.
package build

import (
	"fmt"
	"runtime/debug"
)

// version is the release, set at link time:
// -ldflags "-X github.com/podid-io/podid/internal/build.version=v1.2.3".
// The linker can set nothing but a variable.
var version string

// Info describes the build of a binary.
type Info struct {
	// Version is the release, or what the Go toolchain derived from the repository. It is "devel" when
	// neither is known.
	Version string
	// Commit is the revision, with "-dirty" when the tree had changes. It is "unknown" outside a
	// repository.
	Commit string
	// GoVersion is the toolchain, for example go1.26.8.
	GoVersion string
}

// Describe returns the build information of the running binary.
func Describe() Info {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return describe(version, &debug.BuildInfo{})
	}
	return describe(version, info)
}

func describe(release string, info *debug.BuildInfo) Info {
	b := Info{Version: release, Commit: "unknown", GoVersion: info.GoVersion}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if revision := settings["vcs.revision"]; revision != "" {
		b.Commit = revision
		if settings["vcs.modified"] == "true" {
			b.Commit += "-dirty"
		}
	}
	return b
}

// Version returns the release of the running binary, "devel" when it has none.
func Version() string { return Describe().Version }

// String returns the line that the flag version prints.
func (b Info) String() string {
	return fmt.Sprintf("%s (commit %s, %s)", b.Version, b.Commit, b.GoVersion)
}

// UserAgent returns the name that a program sends to Azure and the API server, for example
// "podid-mic/v1.2.3".
func UserAgent(program string) string { return "podid-" + program + "/" + Version() }
