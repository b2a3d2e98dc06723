package node

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/podid-io/podid/internal/sandbox/network"
)

func TestContainerdMajor(t *testing.T) {
	tests := []struct {
		out  string
		want int
	}{
		{"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", 1},
		{"containerd github.com/containerd/containerd v1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da", 1},
		{"containerd containerd.io/v2 v2.1.4 75cb2b7193e4e490e9fbdc236c0e811ccaba3376", 2},
		{"containerd github.com/containerd/containerd/v2 2.0.5", 2},
		{"dockerd 24.0", 0},
		{"", 0},
	}
	for _, tt := range tests {
		got, err := ContainerdMajor(tt.out)
		if got != tt.want || (err == nil) != (tt.want > 0) {
			t.Errorf("%q gives %d, %v", tt.out, got, err)
		}
	}
}

func TestContainerdConfig(t *testing.T) {
	for major, version := range map[int]string{1: "version = 2", 2: "version = 3", 3: "version = 3"} {
		config := ContainerdConfig(major)
		if !strings.HasPrefix(config, version) {
			t.Errorf("containerd %d gets a file that starts with %.20q", major, config)
		}
		for _, want := range []string{PauseImage, CNIBinDir, ContainerdSocket, BinDir + "/runc", "restrict_oom_score_adj = true"} {
			if !strings.Contains(config, want) {
				t.Errorf("containerd %d: no %s", major, want)
			}
		}
	}
}

func TestConfigsAreValid(t *testing.T) {
	kubelet, err := KubeletConfig("node-0")
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := ProxyConfig("node-0", "10.244.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	for text, kind := range map[string]string{kubelet: "KubeletConfiguration", proxy: "KubeProxyConfiguration"} {
		var doc struct{ Kind string }
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil || doc.Kind != kind {
			t.Errorf("%s reads as %q, %v", kind, doc.Kind, err)
		}
	}
}

func TestCNIConfig(t *testing.T) {
	for plane, want := range map[network.Dataplane][]string{
		network.Bridged: {"bridge"}, network.Routed: {"ptp"}, network.EBPF: {"ptp", HostRoutingPlugin},
	} {
		text, err := CNIConfig(plane, netip.MustParsePrefix("10.244.3.0/24"))
		if err != nil {
			t.Fatal(err)
		}
		var config struct{ Plugins []struct{ Type string } }
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			t.Fatal(err)
		}
		var types []string
		for _, p := range config.Plugins {
			types = append(types, p.Type)
		}
		if !slices.Equal(types, want) || !slices.Contains(CNIPlugins(plane), types[0]) ||
			!strings.Contains(text, "10.244.3.0/24") || !strings.Contains(text, `"ipMasq": false`) {
			t.Errorf("%s: plugins %v of %v: %s", plane, types, CNIPlugins(plane), text)
		}
	}
}

func TestSpecRoundTrip(t *testing.T) {
	want := Spec{Hostname: "node-0", Services: []Service{{Name: "kubelet", Path: "/x", Args: []string{"--v=2"}}}}
	file := t.TempDir() + "/spec.json"
	if err := want.Write(file); err != nil {
		t.Fatal(err)
	}
	got, err := ReadSpec(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.Hostname != want.Hostname || len(got.Services) != 1 || got.Services[0].Args[0] != "--v=2" {
		t.Errorf("read back %+v", got)
	}
}
