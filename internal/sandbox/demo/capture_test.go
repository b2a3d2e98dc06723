package demo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/programs"
)

func TestCaptureFor(t *testing.T) {
	for _, c := range []struct {
		plane     network.Dataplane
		way, want string
	}{
		{network.Bridged, "", "wire"},
		{network.Routed, "", "wire"},
		{network.EBPF, "", "prefer"},
		{network.Bridged, "require", "require"},
		{network.EBPF, "require", "require"},
		{network.Routed, "wire", "wire"},
		{network.EBPF, "wire", ""}, // an error
		{network.Bridged, "maybe", ""},
	} {
		got, err := CaptureFor(c.plane, c.way)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("capture %q on %s: %q, %v, want %q", c.way, c.plane, got, err, c.want)
		}
	}
}

// TestCapturingChart: the chart is as this package expects it.
func TestCapturingChart(t *testing.T) {
	source, err := programs.Source()
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := capturingChart(filepath.Join(source, "charts/podid"), to); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(to, "templates/nmi-daemonset.yaml"))
	if err != nil || !strings.Contains(string(text), "SYS_ADMIN") {
		t.Errorf("no capabilities in %s, %v", text, err)
	}
}
