package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/process"
)

func TestNewLayout(t *testing.T) {
	for name, ok := range map[string]bool{
		"default": true, "ci-7": true, "a": true, "": false, "../x": false, "A": false, "-a": false, "a-": false,
		"a/b": false, "a b": false, strings.Repeat("a", 33): false,
	} {
		if _, err := NewLayout(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestWorld(t *testing.T) {
	plan, err := network.NewPlan("x", 2)
	if err != nil {
		t.Fatal(err)
	}
	text, err := world(plan, 1500*time.Millisecond, "secret")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		ScaleSets []struct {
			Name      string
			Instances []struct {
				ID        string
				Addresses []string
			}
		}
		Identities []struct{ ResourceID string }
		Settings   struct {
			ARM struct{ UpdateDuration string }
		}
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.ScaleSets) != 1 || doc.ScaleSets[0].Name != ScaleSet || len(doc.ScaleSets[0].Instances) != 2 {
		t.Fatalf("scale sets %+v", doc.ScaleSets)
	}
	for i, instance := range doc.ScaleSets[0].Instances {
		if !strings.HasSuffix(providerID(plan.Nodes[i]), "/"+ScaleSet+"/virtualMachines/"+instance.ID) {
			t.Errorf("node %d has the provider ID %s", i, providerID(plan.Nodes[i]))
		}
		if diff := cmp.Diff([]string{plan.Nodes[i].IP.Addr().String()}, instance.Addresses); diff != "" {
			t.Error(diff)
		}
	}
	if len(doc.Identities) != 2 || doc.Identities[0].ResourceID != Identities()[0].ResourceID {
		t.Errorf("identities %+v", doc.Identities)
	}
	if doc.Settings.ARM.UpdateDuration != "1.5s" {
		t.Errorf("update takes %s", doc.Settings.ARM.UpdateDuration)
	}
}

func TestEnvironment(t *testing.T) {
	s := &Sandbox{layout: Layout{Name: "x"}}
	got := s.Environment([]string{"HOME=/root", "PATH=/bin", "https_proxy=http://proxy", "HTTP_PROXY=http://proxy", "KUBECONFIG=/other"})
	want := []string{
		"HOME=/root", "PATH=/var/lib/podid/sandbox/x/bin:/bin",
		"KUBECONFIG=/var/lib/podid/sandbox/x/pki/admin.kubeconfig", "PODID_SANDBOX=x",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStatePut(t *testing.T) {
	var s State
	s.put(Component{Name: "node-0", ID: process.ID{PID: 1}})
	s.put(Component{Name: "node-1", ID: process.ID{PID: 2}})
	s.put(Component{Name: "node-0", ID: process.ID{PID: 3}})
	if len(s.Components) != 2 {
		t.Errorf("components %+v", s.Components)
	}
	if c, ok := s.component("node-0"); !ok || c.ID.PID != 3 {
		t.Errorf("node-0 is %+v", c)
	}
	if s.allAlive() {
		t.Error("processes of another boot are alive")
	}
}

func TestLoadNothing(t *testing.T) {
	if _, err := (Layout{Name: "never-made"}).load(); !errors.Is(err, ErrNotUp) {
		t.Errorf("got %v", err)
	}
}

func TestLastLines(t *testing.T) {
	tests := []struct {
		text  string
		lines int
		want  string
	}{
		{"a\nb\nc\n", 2, "b\nc\n"},
		{"a\nb\nc", 2, "b\nc"},
		{"a\n", 5, "a\n"},
		{"a\nb\n", -1, "a\nb\n"},
		{"a\nb\n", 0, ""},
		{"", 3, ""},
	}
	for _, tt := range tests {
		if got := lastLines(tt.text, tt.lines); got != tt.want {
			t.Errorf("%q, %d lines: %q", tt.text, tt.lines, got)
		}
	}
}

func TestMountPoints(t *testing.T) {
	const mountinfo = "1 0 8:1 / / rw - ext4 a rw\n" +
		"2 1 0:5 / /var/lib/podid/sandbox/x/nodes rw - tmpfs b rw\n" +
		"3 2 0:6 / /var/lib/podid/sandbox/x/nodes/root rw - tmpfs c rw\n" +
		"4 1 0:7 / /var/lib/podid/sandbox/xy rw - tmpfs d rw\nbroken\n"
	want := []string{"/var/lib/podid/sandbox/x/nodes", "/var/lib/podid/sandbox/x/nodes/root"}
	if diff := cmp.Diff(want, mountPoints(mountinfo, "/var/lib/podid/sandbox/x")); diff != "" {
		t.Error(diff)
	}
}

func TestParseResident(t *testing.T) {
	for status, want := range map[string]int64{
		"Name:\tetcd\nVmRSS:\t   46080 kB\nThreads:\t9\n": 45, "VmRSS:\tmany kB\n": 0, "Name:\tkthreadd\n": 0, "": 0,
	} {
		if got := parseResident(status); got != want {
			t.Errorf("%q gives %d", status, got)
		}
	}
}

// Following a log returns what any writer appends, and ends with the context.
func TestFollowFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.log")
	writer, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	shown := make(lines, 10)
	done := make(chan error, 1)
	go func() { done <- followFile(t.Context(), reader, shown) }()
	for _, line := range []string{"one\n", "two\n"} {
		if _, err := writer.WriteString(line); err != nil {
			t.Fatal(err)
		}
		if got := <-shown; got != line {
			t.Errorf("shown %q, want %q", got, line)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// lines receives each written value.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}
