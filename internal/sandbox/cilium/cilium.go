// Package cilium defines how real Cilium runs as the nodes' data plane: an agent and a network
// plugin on each node, and one operator beside the control plane. Its programs come from a folder;
// podid neither builds nor downloads them.
//
// Cilium replaces kube-proxy here, and routes what pods send in eBPF, past the node's netfilter. It
// masquerades no pod, so that programs outside the node see its address, as on all data planes.
package cilium

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/podid-io/podid/internal/sandbox/node"
)

// The programs in the folder.
const (
	Agent    = "cilium-agent"
	Operator = "cilium-operator-generic"
	Plugin   = "cilium-cni"
	compiler = "clang"
	// sources is the folder with the C source of Cilium's BPF programs. The agent compiles them on the
	// node.
	sources = "bpf"
)

// User is the name of Cilium's client certificate and kubeconfig.
const User = "cilium"

// ConfigDir is where the agent writes the network plugin's configuration. It has to be a mount: the
// agent makes files in /tmp and moves them if it can, and containerd 1.6 does not notice those.
const ConfigDir = "/etc/cni/net.d"

// library is the agent's folder on a node. It holds a copy of the sources, to which the agent adds
// headers.
const library = "/var/lib/cilium"

// Check returns an error that names what is missing in a folder with Cilium's programs, and how to
// get it.
func Check(dir string) error {
	var missing []string
	for _, name := range []string{Agent, Operator, Plugin, compiler, filepath.Join(sources, "bpf_lxc.c")} {
		info, err := os.Stat(filepath.Join(dir, name))
		const anyone = 0o111
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
		case err != nil:
			return fmt.Errorf("look for Cilium's programs: %w", err)
		case !strings.Contains(name, "/") && info.Mode()&anyone == 0:
			missing = append(missing, name+" (not executable)")
		}
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("data plane cilium: %s lacks %s; make such a folder with `hack/cilium.sh DIR`, see docs/sandbox.md",
		dir, strings.Join(missing, ", "))
}

// Prepare returns the program that runs on a node before the agent.
func Prepare() node.Service {
	return node.Service{Name: "cilium-sources", Path: "/bin/sh", Args: []string{
		"-c", `mkdir -p "$1" && cp -r "$0" "$1"`, filepath.Join(node.CiliumDir, sources), library,
	}}
}

// AgentArgs returns the arguments of the agent.
func AgentArgs() []string {
	return []string{
		"--k8s-kubeconfig-path=" + kubeconfig(), "--k8s-namespace=kube-system", "--identity-allocation-mode=crd",
		"--lib-dir=" + library, "--bpf-root=/sys/fs/bpf", "--cgroup-root=/run/cilium/cgroupv2",
		"--write-cni-conf-when-ready=" + ConfigDir + "/05-cilium.conflist", "--cni-exclusive=false",
		// The Node has the addresses of its pods, and the routes between nodes are there, as on Azure.
		"--ipam=kubernetes", "--routing-mode=native", "--devices=eth0", "--enable-ipv6=false",
		// Host routing needs the first two, and is silently off without them.
		"--kube-proxy-replacement=true", "--enable-bpf-masquerade=true", "--enable-host-legacy-routing=false",
		// Without a file, it exempts private and link-local addresses: there are no others in a sandbox.
		"--enable-ip-masq-agent=true", "--ip-masq-agent-config-path=" + library + "/ip-masq-agent",
		// Needs iptables, Envoy or more programs.
		"--install-iptables-rules=false", "--enable-l7-proxy=false", "--enable-hubble=false",
		"--enable-health-checking=false", "--enable-endpoint-health-checking=false",
	}
}

// OperatorArgs returns the arguments of the operator, which runs where the control plane does.
func OperatorArgs(kubeconfig string) []string {
	return []string{
		"--k8s-kubeconfig-path=" + kubeconfig, "--cilium-pod-namespace=kube-system", "--identity-allocation-mode=crd",
		"--ipam=kubernetes", "--kube-proxy-replacement=true",
	}
}

func kubeconfig() string { return node.PKIDir + "/" + User + ".kubeconfig" }
