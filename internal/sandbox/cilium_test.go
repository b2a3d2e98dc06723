package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/sandbox/cgroup"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/node"
)

// TestPlanes: what runs on nodes of each data plane, and how the runtime finds the network plugins.
func TestPlanes(t *testing.T) {
	plan, err := network.NewPlan("x", 1)
	if err != nil {
		t.Fatal(err)
	}
	own := []string{"/etc/cni/net.d/10-podid.conflist", "/opt/cni/bin/podid-host-routing"}
	cilium := []string{"/opt/cilium", "/opt/cni/bin/cilium-cni", "/opt/podid/pki/cilium.kubeconfig"}
	for _, c := range []struct {
		plane                    network.Dataplane
		before, services, mounts []string
		clients                  int
	}{
		{"bridge", nil, []string{"containerd", "kubelet", "kube-proxy"}, own, 0},
		{"routed", nil, []string{"containerd", "kubelet", "kube-proxy"}, own, 0},
		{"ebpf", nil, []string{"containerd", "kubelet", "kube-proxy"}, own, 0},
		{"cilium=/c", []string{"cilium-sources"}, []string{"containerd", "kubelet", "cilium-agent"}, cilium, 1},
	} {
		b := &build{plan: plan, plane: c.plane, record: &record{layout: Layout{Name: "x"}}, sandbox: &Sandbox{}}
		n := plan.Nodes[0]
		names := func(services []node.Service) (names []string) {
			for _, s := range services {
				names = append(names, s.Name)
				if !strings.HasSuffix(s.Log, "/log/"+s.Name+"-node-0.log") {
					t.Errorf("%s: the log of %s is %s", c.plane, s.Name, s.Log)
				}
			}
			return names
		}
		if diff := cmp.Diff(c.before, names(b.nodeBefore(n))) + cmp.Diff(c.services, names(b.nodeServices(n))); diff != "" {
			t.Errorf("%s: %s", c.plane, diff)
		}
		var mounts []string
		for _, m := range b.nodeBinds(n, "/config") {
			if slices.Contains(slices.Concat(own, cilium), m.To) {
				mounts = append(mounts, m.To)
			}
			if !m.ReadOnly && m.To != "/etc/cni/net.d" {
				t.Errorf("%s: the node may write to %s", c.plane, m.From)
			}
		}
		if diff := cmp.Diff(c.mounts, mounts); diff != "" {
			t.Errorf("%s: mounts: %s", c.plane, diff)
		}
		if got := b.planeClients(); len(got) != c.clients {
			t.Errorf("%s: clients %+v", c.plane, got)
		}
	}
}

// TestUpChecksCilium: a folder without Cilium is an error before anything is made.
func TestUpChecksCilium(t *testing.T) {
	err := (&Sandbox{layout: Layout{Name: "never-made"}}).Up(t.Context(), Options{Nodes: 1, Dataplane: "cilium=" + t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "lacks cilium-agent") {
		t.Errorf("got %v", err)
	}
}

// TestCiliumGroups: Cilium is refused where its programs would be on the machine's control group.
func TestCiliumGroups(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("cgroup", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for machine, ok := range map[string]bool{"v1": false, "container-v1": false, "hybrid": true, "v2": true, "container-v2": true} {
		groups, err := cgroup.Parse(read(machine+".mountinfo"), read(machine+".cgroup"))
		if err != nil {
			t.Fatal(err)
		}
		if err := checkGroups("cilium=/c", groups); (err == nil) != ok {
			t.Errorf("%s: %v", machine, err)
		}
		if err := checkGroups("ebpf", groups); err != nil {
			t.Errorf("%s without Cilium: %v", machine, err)
		}
	}
}

// TestCiliumClang: the folder's clang compiles, not an older one of the machine.
func TestCiliumClang(t *testing.T) {
	for _, e := range node.Env() {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			if folders := strings.Split(path, ":"); slices.Index(folders, node.CiliumDir) > slices.Index(folders, "/usr/bin") {
				t.Errorf("PATH is %s", path)
			}
		}
	}
}
