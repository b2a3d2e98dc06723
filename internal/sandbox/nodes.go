// Starting a node.

package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/podid-io/podid/internal/sandbox/cilium"
	"github.com/podid-io/podid/internal/sandbox/netns"
	"github.com/podid-io/podid/internal/sandbox/network"
	"github.com/podid-io/podid/internal/sandbox/node"
	"github.com/podid-io/podid/internal/sandbox/process"
)

// BootProgram runs on a node to its end before the services start, as a systemd unit of type
// oneshot that the kubelet requires.
type BootProgram struct {
	// File is the program on the machine.
	File string
	Args []string
}

// startNode writes the node's configuration and starts its pid 1.
func (b *build) startNode(n network.Node, before ...BootProgram) error {
	spec, err := b.nodeSpec(n)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	for _, program := range before {
		name := filepath.Base(program.File)
		inside := node.BinDir + "/" + name
		spec.Binds = append(spec.Binds, node.Bind{From: program.File, To: inside, ReadOnly: true})
		spec.Before = append(spec.Before, node.Service{Name: name, Path: inside, Args: program.Args, Log: b.nodeLog(n, name)})
	}
	return b.launch(n.Name, n.Namespace, spec)
}

// launch starts and records a pid 1, for a node or the control plane, inside a network namespace.
func (b *build) launch(name string, ns netns.Namespace, spec node.Spec) error {
	file := filepath.Join(spec.Dir, "spec.json")
	if err := spec.Write(file); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	pid, err := starter(b.sandbox.self, ns, file)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	id, err := process.Identify(pid)
	if err != nil {
		return fmt.Errorf("start %s: it ended at once; the last lines of its log:\n%s", name, tail(spec.Log, 8))
	}
	return b.update(func(st *State) { st.put(Component{Name: name, ID: id, Node: name != controlName, Log: spec.Log}) })
}

// starter runs the short-lived process that starts a pid 1 inside its network namespace, and
// returns the ID of pid 1.
func starter(self string, ns netns.Namespace, specFile string) (int, error) {
	var out, errs bytes.Buffer
	err := ns.Do(func() error {
		cmd := exec.Command(self, "sandbox", "node-start", specFile) //nolint:noctx // takes milliseconds
		cmd.Env, cmd.Dir = []string{}, "/"
		cmd.Stdout, cmd.Stderr = &out, &errs
		return cmd.Run()
	})
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		return 0, fmt.Errorf("the starter answered %q", out.String())
	}
	return pid, nil
}

// nodeSpec writes the node's configuration files and returns the node's specification.
func (b *build) nodeSpec(n network.Node) (node.Spec, error) {
	dir := b.layout.Node(n.Name)
	config := filepath.Join(dir, "config")
	if err := os.MkdirAll(config, 0o755); err != nil {
		return node.Spec{}, err
	}
	files, err := b.nodeFiles(n)
	if err != nil {
		return node.Spec{}, err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(config, name), []byte(content), 0o755); err != nil { // one is a script
			return node.Spec{}, err
		}
	}
	if err := emptyFolder(filepath.Join(config, networkFolder)); err != nil {
		return node.Spec{}, err
	}
	groups, err := b.groups.Make(b.layout.Name, n.Name)
	if err != nil {
		return node.Spec{}, err
	}
	images, err := b.nodeImages()
	if err != nil {
		return node.Spec{}, err
	}
	return node.Spec{
		Hostname: n.Name, Dir: dir, Env: node.Env(), Cgroups: b.groups, Groups: groups,
		Binds: b.nodeBinds(n, config), Before: b.nodeBefore(n), Services: b.nodeServices(n), Images: images,
		Log: b.nodeLog(n, "init"),
	}, nil
}

// networkFolder is the folder below the node's configuration that its data plane may write to.
const networkFolder = "network"

// emptyFolder makes an empty folder.
func emptyFolder(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o755)
}

// nodeFiles returns the content of the files below the node's /etc.
func (b *build) nodeFiles(n network.Node) (map[string]string, error) {
	major, err := node.ContainerdMajor(b.set.ContainerdVersion)
	if err != nil {
		return nil, err
	}
	cni, err := node.CNIConfig(b.plane, n.Pods)
	if err != nil {
		return nil, err
	}
	kubelet, err := node.KubeletConfig(n.Name)
	if err != nil {
		return nil, err
	}
	proxy, err := node.ProxyConfig(n.Name, network.PodCIDR)
	if err != nil {
		return nil, err
	}
	return map[string]string{ //nolint:gosec // no credentials: the passwd file has none
		"containerd.toml":   node.ContainerdConfig(major),
		"kubelet.yaml":      kubelet,
		"kube-proxy.yaml":   proxy,
		"10-podid.conflist": cni,
		"host-routing":      node.HostRoutingScript,
		"hosts":             fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", n.IP.Addr(), n.Name),
		"resolv.conf":       "nameserver 127.0.0.1\n", // there is no DNS in the sandbox
		"passwd":            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
		"group":             "root:x:0:\nnogroup:x:65534:\n",
		"machine-id":        fmt.Sprintf("%032x\n", n.Index+1),
	}, nil
}

// nodeBinds returns the mounts that show the node its configuration, programs, certificates and
// images.
func (b *build) nodeBinds(n network.Node, config string) []node.Bind {
	read := func(from, to string) node.Bind { return node.Bind{From: from, To: to, ReadOnly: true} }
	binds := []node.Bind{
		read(config, node.ConfigDir),
		read(b.sandbox.self, node.BinDir+"/podid"),
	}
	binds = append(binds, b.planeBinds(config)...)
	for _, name := range node.CNIPlugins(b.plane) {
		binds = append(binds, read(filepath.Join(b.set.CNI, name), node.CNIBinDir+"/"+name))
	}
	for _, name := range []string{"hosts", "resolv.conf", "passwd", "group", "machine-id"} {
		binds = append(binds, read(filepath.Join(config, name), "/etc/"+name))
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "kubelet", "kube-proxy", "nft"} {
		binds = append(binds, read(b.set.Path(name), node.BinDir+"/"+name))
	}
	for _, name := range []string{"ca.crt", n.Name + ".crt", n.Name + ".key", n.Name + ".kubeconfig", "proxy.kubeconfig"} {
		binds = append(binds, read(filepath.Join(b.layout.PKI(), name), node.PKIDir+"/"+name))
	}
	// MIC finds its cloud config and the endpoints of a custom cloud at the same paths as on a real
	// node.
	for name, to := range map[string]string{"azure.json": "azure.json", "azurestackcloud.json": "akscustom.json", "ca.crt": "azure-ca.crt"} {
		binds = append(binds, read(filepath.Join(b.layout.Azure(), name), "/etc/kubernetes/"+to))
	}
	if b.set.Libraries != "" {
		binds = append(binds, read(b.set.Libraries, node.LibDir))
	}
	return append(binds, read(b.layout.Images(), node.ImageDir))
}

// planeBinds returns the mounts of the node's data plane.
func (b *build) planeBinds(config string) []node.Bind {
	read := func(from, to string) node.Bind { return node.Bind{From: from, To: to, ReadOnly: true} }
	if dir, ok := b.plane.Cilium(); ok {
		return []node.Bind{
			read(dir, node.CiliumDir),
			read(filepath.Join(dir, cilium.Plugin), node.CNIBinDir+"/"+cilium.Plugin),
			read(filepath.Join(b.layout.PKI(), cilium.User+".kubeconfig"), node.PKIDir+"/"+cilium.User+".kubeconfig"),
			{From: filepath.Join(config, networkFolder), To: cilium.ConfigDir},
		}
	}
	return []node.Bind{
		read(filepath.Join(config, "10-podid.conflist"), "/etc/cni/net.d/10-podid.conflist"),
		read(filepath.Join(config, "host-routing"), node.CNIBinDir+"/"+node.HostRoutingPlugin),
	}
}

// nodeBefore returns the programs that run on a node before its services.
func (b *build) nodeBefore(n network.Node) []node.Service {
	if _, ok := b.plane.Cilium(); !ok {
		return nil
	}
	prepare := cilium.Prepare()
	prepare.Log = b.nodeLog(n, prepare.Name)
	return []node.Service{prepare}
}

// nodeServices returns the programs that run on a node.
func (b *build) nodeServices(n network.Node) []node.Service {
	var labels []string
	if b.plane == network.EBPF {
		labels = append(labels, "--node-labels="+network.HostRoutingLabel+"=true")
	}
	return []node.Service{
		{
			Name: "containerd", Path: node.BinDir + "/containerd", Log: b.nodeLog(n, "containerd"),
			Args:   []string{"--config=" + node.ConfigDir + "/containerd.toml"},
			Socket: node.ContainerdSocket,
		},
		{
			Name: "kubelet", Path: node.BinDir + "/kubelet", Log: b.nodeLog(n, "kubelet"),
			Args: append([]string{
				"--config=" + node.ConfigDir + "/kubelet.yaml", "--kubeconfig=" + node.PKIDir + "/" + n.Name + ".kubeconfig",
				"--hostname-override=" + n.Name, "--node-ip=" + n.IP.Addr().String(),
				"--provider-id=" + providerID(n),
				"--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki", "--v=2",
			}, labels...),
		},
		b.planeService(n),
	}
}

// planeService returns the program that serves Services on a node.
func (b *build) planeService(n network.Node) node.Service {
	if _, ok := b.plane.Cilium(); ok {
		return node.Service{
			Name: cilium.Agent, Path: node.CiliumDir + "/" + cilium.Agent, Args: cilium.AgentArgs(), Log: b.nodeLog(n, cilium.Agent),
		}
	}
	return node.Service{
		Name: "kube-proxy", Path: node.BinDir + "/kube-proxy", Log: b.nodeLog(n, "kube-proxy"),
		Args: []string{"--config=" + node.ConfigDir + "/kube-proxy.yaml"},
	}
}

// nodeImages collects the archives that nodes import in one folder and returns their paths on a
// node.
func (b *build) nodeImages() ([]string, error) {
	var inside []string
	entries, err := os.ReadDir(b.layout.Images())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		inside = append(inside, node.ImageDir+"/"+e.Name())
	}
	return inside, nil
}

func (b *build) nodeLog(n network.Node, service string) string {
	return filepath.Join(b.layout.Logs(), service+"-"+n.Name+".log")
}
