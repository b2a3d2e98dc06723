package network

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestParseDataplane(t *testing.T) {
	here, err := filepath.Abs("x")
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[string]struct {
		plane  Dataplane
		cilium string
	}{
		"": {plane: Bridged}, "bridge": {plane: Bridged}, "routed": {plane: Routed}, "ebpf": {plane: EBPF},
		"cilium=/opt/c": {"cilium=/opt/c", "/opt/c"}, "cilium=x": {Dataplane("cilium=" + here), here},
		"cilium=/a=b/": {"cilium=/a=b", "/a=b"},
	} {
		got, err := ParseDataplane(s)
		dir, isCilium := got.Cilium()
		if err != nil || got != want.plane || isCilium != (want.cilium != "") || isCilium && dir != want.cilium {
			t.Errorf("%q gives %q with folder %q, %v", s, got, dir, err)
		}
	}
	for _, s := range []string{"cilium", "cilium=", "Bridge", "calico"} {
		if _, err := ParseDataplane(s); err == nil || !strings.Contains(err.Error(), "bridge, routed, ebpf or cilium=DIR") {
			t.Errorf("%q: %v", s, err)
		}
	}
}
