package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The fixtures are /proc/self/mountinfo and /proc/self/cgroup of the layouts that they are named
// after.
func TestParse(t *testing.T) {
	tests := []struct {
		name string
		mode Mode
		want []string // the sandbox's folders
	}{
		{"v1", V1, []string{
			"/sys/fs/cgroup/cpu,cpuacct/user.slice/podid-x",
			"/sys/fs/cgroup/memory/user.slice/podid-x",
			"/sys/fs/cgroup/systemd/user.slice/user-0.slice/session-1.scope/podid-x",
		}},
		{"hybrid", Hybrid, []string{
			"/sys/fs/cgroup/cpu/podid-x",
			"/sys/fs/cgroup/memory/jobs/7/podid-x",
			"/sys/fs/cgroup/systemd/podid-x",
			"/sys/fs/cgroup/unified/podid-x",
		}},
		{"v2", V2, []string{"/sys/fs/cgroup/podid-x"}},
		{"container-v1", V1, []string{"/sys/fs/cgroup/memory/podid-x", "/sys/fs/cgroup/pids/podid-x"}},
		{"container-v2", V2, []string{"/sys/fs/cgroup/podid-x"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			layout, err := Parse(fixture(t, tt.name+".mountinfo"), fixture(t, tt.name+".cgroup"))
			if err != nil {
				t.Fatal(err)
			}
			if layout.Mode != tt.mode {
				t.Errorf("mode %s, want %s", layout.Mode, tt.mode)
			}
			if diff := cmp.Diff(tt.want, layout.Bases("x")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseNothing(t *testing.T) {
	if _, err := Parse("22 1 254:0 / / rw - ext4 /dev/vda rw\n", "0::/\n"); err == nil {
		t.Error("a machine without control groups is accepted")
	}
}

func TestMountOptions(t *testing.T) {
	tests := []struct {
		options []string
		want    string
	}{
		{[]string{"memory"}, "memory"},
		{[]string{"cpu", "cpuacct"}, "cpu,cpuacct"},
		{[]string{"name=systemd"}, "none,name=systemd"},
	}
	for _, tt := range tests {
		if got := mountOptions(tt.options); got != tt.want {
			t.Errorf("%v gives %q, want %q", tt.options, got, tt.want)
		}
	}
}

func TestDelegate(t *testing.T) {
	tests := []struct {
		name, offered, enabled string
		want                   string // what is written
		wantErr                bool
	}{
		{name: "all there", offered: "cpuset cpu io memory pids", enabled: "cpuset cpu io memory pids"},
		{name: "some missing", offered: "cpuset cpu io memory pids", enabled: "memory pids", want: "+io +cpu +cpuset"},
		{name: "not offered", offered: "memory pids", wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, "cgroup.controllers", tt.offered)
			put(t, dir, "cgroup.subtree_control", tt.enabled)
			if err := delegate(dir); (err != nil) != tt.wantErr {
				t.Fatalf("error %v", err)
			}
			want := tt.want
			if want == "" {
				want = tt.enabled
			}
			if got := fixtureAt(t, filepath.Join(dir, "cgroup.subtree_control")); got != want {
				t.Errorf("written %q, want %q", got, want)
			}
		})
	}
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func fixture(t *testing.T, name string) string {
	t.Helper()
	return fixtureAt(t, filepath.Join("testdata", name))
}

func fixtureAt(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
