package build

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestDescribe(t *testing.T) {
	vcs := func(revision, modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs.revision", Value: revision}, {Key: "vcs.modified", Value: modified}}
	}
	for _, tt := range []struct {
		name, release string
		info          debug.BuildInfo
		want          string
	}{
		{"release", "v1.2.3", debug.BuildInfo{GoVersion: "go1.26.8", Settings: vcs("abc", "false")}, "v1.2.3 (commit abc, go1.26.8)"},
		{"tree with changes", "", debug.BuildInfo{
			GoVersion: "go1.26.8", Main: debug.Module{Version: "v0.0.1-x+dirty"}, Settings: vcs("abc", "true"),
		}, "v0.0.1-x+dirty (commit abc-dirty, go1.26.8)"},
		{"no repository", "", debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "(devel)"}}, "devel (commit unknown, go1.26.8)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := describe(tt.release, &tt.info).String(); got != tt.want {
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
