package demo

import (
	"testing"

	"github.com/podid-io/podid/internal/sandbox/network"
)

func TestCaptureFor(t *testing.T) {
	for _, c := range []struct {
		plane     network.Dataplane
		way, want string
	}{
		{network.Bridged, "", "prefer"},
		{network.Routed, "", "prefer"},
		{network.EBPF, "", "prefer"},
		{network.Bridged, "require", "require"},
		{network.EBPF, "require", "require"},
		{network.Routed, "wire", "wire"},
		{network.EBPF, "wire", ""}, // an error
		{"cilium=/x", "", "prefer"},
		{"cilium=/x", "require", "require"},
		{"cilium=/x", "wire", ""},
		{network.Bridged, "maybe", ""},
	} {
		got, err := CaptureFor(c.plane, c.way)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("capture %q on %s: %q, %v, want %q", c.way, c.plane, got, err, c.want)
		}
	}
}
