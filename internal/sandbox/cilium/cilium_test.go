package cilium

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// folder makes a folder with stand-ins for Cilium's programs.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, sources), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Agent, Operator, Plugin, compiler, sources + "/bpf_lxc.c"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCheck(t *testing.T) {
	if err := Check(folder(t)); err != nil {
		t.Errorf("a complete folder: %v", err)
	}
	for _, name := range []string{Agent, Operator, Plugin, compiler, sources} {
		dir := folder(t)
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		err := Check(dir)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "hack/cilium.sh") {
			t.Errorf("without %s: %v", name, err)
		}
	}
	dir := folder(t)
	if err := os.Chmod(filepath.Join(dir, Plugin), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir); err == nil || !strings.Contains(err.Error(), Plugin+" (not executable)") {
		t.Errorf("with a plugin that cannot run: %v", err)
	}
	if err := Check(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), Agent+", "+Operator) {
		t.Errorf("without a folder: %v", err)
	}
}

// TestAgentArgs: what Cilium needs for eBPF host routing, without which it falls back in silence,
// and what keeps it to the node.
func TestAgentArgs(t *testing.T) {
	args := AgentArgs()
	for _, want := range []string{
		"--kube-proxy-replacement=true", "--enable-bpf-masquerade=true", "--enable-host-legacy-routing=false", "--routing-mode=native",
		"--enable-ip-masq-agent=true", "--cgroup-root=/run/cilium/cgroupv2", "--bpf-root=/sys/fs/bpf",
		"--k8s-kubeconfig-path=/opt/podid/pki/cilium.kubeconfig",
	} {
		if !slices.Contains(args, want) {
			t.Errorf("the agent is started without %s", want)
		}
	}
}
