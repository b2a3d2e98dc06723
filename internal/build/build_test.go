package build

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestDescribe(t *testing.T) {
	vcs := func(revision, modified string) []debug.BuildSetting {
		return []debug.BuildSetting{
			{Key: "vcs.revision", Value: revision},
			{Key: "vcs.modified", Value: modified},
			{Key: "vcs.time", Value: "2026-01-02T03:04:05Z"},
		}
	}
	for _, tt := range []struct {
		name   string
		linked Info
		info   debug.BuildInfo
		want   string
	}{
		{
			"release",
			Info{Version: "v1.2.3", Commit: "abc", Date: "2026-01-01T00:00:00Z"},
			debug.BuildInfo{GoVersion: "go1.26.8"},
			"v1.2.3 (commit abc, date 2026-01-01T00:00:00Z, go1.26.8)",
		},
		{
			"what was linked goes first",
			Info{Version: "v1.2.3"},
			debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v1.2.4"}, Settings: vcs("abc", "false")},
			"v1.2.3 (commit abc, date 2026-01-02T03:04:05Z, go1.26.8)",
		},
		{
			"tree with changes",
			Info{},
			debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v0.0.1-x+dirty"}, Settings: vcs("abc", "true")},
			"v0.0.1-x+dirty (commit abc-dirty, date 2026-01-02T03:04:05Z, go1.26.8)",
		},
		{
			"go install",
			Info{},
			debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v1.2.3"}},
			"v1.2.3 (commit unknown, date unknown, go1.26.8)",
		},
		{
			"no repository",
			Info{},
			debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "(devel)"}},
			"devel (commit unknown, date unknown, go1.26.8)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := describe(tt.linked, &tt.info).String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestUserAgent(t *testing.T) {
	if got := UserAgent("mic"); !strings.HasPrefix(got, "podid-mic/") || strings.ContainsAny(got, " ()") {
		t.Errorf("got %q", got)
	}
}

func TestRelease(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3": "1.2.3", "v1.2.3-rc.1": "1.2.3-rc.1", // releases, and no releases:
		"devel": "", "f179759": "", "v1.2.3-dirty": "", "v1.2.3-4-gf179759": "", "v0.1.0-dev.gf179759": "",
		"v01.2.3": "", "v1.2.3-rc.01": "", "v1.2.3-weekly": "", "v1.2": "", "1.2.3": "",
		"v0.0.0-20261201000000-f17975900000": "", "v1.2.4-0.20261201000000-f17975900000": "",
	} {
		if got, ok := ReleaseNumber(version); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %t, want %q", version, got, ok, want)
		}
	}
}
