package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

// split is a node whose agents run without privileges, each beside a holder.
type split struct {
	*inPods
	folder        string // of programs, readable to all
	nmi, holder   string
	lastPair      int
	podGroup      string
	pod, unopened *testnet.Net
}

// newSplit returns a node with a pod in whose network requests are captured, and one whose network
// the holder does not know.
func newSplit(t *testing.T) *split {
	n := newSplitOn(newInPods(t))
	n.pod, n.unopened = n.web, n.api
	n.podGroup = n.bound("web", "00000000-0000-4000-8000-00000000000a", map[string]any{"aadpodidbinding": "web"})
	n.grant("web")
	n.namespaces.Add("web", n.pod)
	n.kube.apply("pods", "v1", "Pod", "api", map[string]any{
		"spec":   map[string]any{"nodeName": "node-1", "containers": []any{}},
		"status": map[string]any{"phase": "Running", "podIP": "10.244.1.2", "podIPs": []any{map[string]any{"ip": "10.244.1.2"}}, "hostIP": "10.244.0.1"},
	}, map[string]any{"aadpodidbinding": "api"})
	n.grant("api")
	return n
}

// newSplitOn builds the programs for a node.
func newSplitOn(on *inPods) *split {
	t, n := on.t, &split{inPods: on}
	var err error
	if n.folder, err = os.MkdirTemp("", "podid-split-"); err != nil { // other users may not enter t.TempDir
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(n.folder) })
	n.nmi, n.holder = filepath.Join(n.folder, "nmi"), filepath.Join(n.folder, "nmi-holder")
	n.run("cp", os.Args[0], n.nmi)
	n.run("go", "build", "-o", n.holder, "github.com/podid-io/podid/cmd/nmi-holder")
	n.run("cp", n.kubeconfig, filepath.Join(n.folder, "kubeconfig"))
	n.run("chmod", "-R", "a+rX", n.folder)
	n.kubeconfig = filepath.Join(n.folder, "kubeconfig")
	for up := n.top; up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		n.run("chmod", "a+rx", up) // as /sys/fs/cgroup is
	}
	return n
}

func (n *split) run(name string, args ...string) {
	n.t.Helper()
	if out, err := exec.CommandContext(n.t.Context(), name, args...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// pair returns the folder of another holder and its agent.
func (n *split) pair() string {
	n.lastPair++
	folder := filepath.Join(n.folder, fmt.Sprint("pair-", n.lastPair))
	if err := os.Mkdir(folder, 0o755); err != nil {
		n.t.Fatal(err)
	}
	return folder
}

// startHolder starts a holder with no more capabilities than the chart gives it.
func (n *split) startHolder(folder string, args ...string) *process {
	n.t.Helper()
	return n.startAs([]string{"--bounding-set=-all,+bpf,+net_admin,+sys_admin"}, n.holder, append(n.flagsOf(folder), args...)...)
}

// startAgent starts an agent without privileges.
func (n *split) startAgent(folder string, args ...string) *process {
	n.t.Helper()
	args = append(n.flagsOf(folder), args...)
	args = append(args, "--prefetch-resources=", "--node=node-1", "--kubeconfig="+n.kubeconfig)
	return n.startAs([]string{"--reuid=65532", "--regid=65532", "--clear-groups", "--bounding-set=-all", "--no-new-privs"}, n.nmi, args...)
}

func (n *split) flagsOf(folder string) []string {
	var both []string
	for _, flag := range n.flags() {
		if !strings.HasPrefix(flag, "--prefetch") && !strings.HasPrefix(flag, "--bpf-dir") {
			both = append(both, flag)
		}
	}
	return append(both, "--holder="+folder, "--bpf-dir="+inheritedPins)
}

// inheritedPins is where a process with the file system of the pins as its first additional file
// finds it. It may not look into another process.
const inheritedPins = "/proc/self/fd/3/podid"

// startAs starts a program in the node's network with the privileges that setpriv leaves it.
func (n *split) startAs(privileges []string, program string, args ...string) *process {
	n.t.Helper()
	p := &process{n: n.node, exited: make(chan error, 1), log: newJournal()}
	p.cmd = exec.CommandContext(n.t.Context(), "setpriv", append(append(privileges, program), args...)...)
	p.cmd.Env = []string{"PODID_TEST_AS_NMI=1", endsAtOnce}
	if n.refuses && program == n.holder {
		p.cmd.Args[len(privileges)+1] = n.nmi
		p.cmd.Env = append(p.cmd.Env, refuseVariable+"="+program)
	}
	p.cmd.Stderr = p.log
	pins, err := os.Open(filepath.Dir(n.pins))
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = pins.Close() }()
	p.cmd.ExtraFiles = []*os.File{pins}
	if err := n.node.node.Do(p.cmd.Start); err != nil {
		n.t.Fatal(err)
	}
	p.runs()
	return p
}

// asks expects an answer to the pod, inside its network.
func (n *split) asks(what, want string) {
	n.t.Helper()
	if got := n.ask(n.pod, n.podGroup, service+tokenURL); !strings.HasPrefix(got, want) {
		n.t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

// ping returns what the holder of a folder says to a liveness probe.
func (n *split) ping(folder string) error {
	cmd := exec.CommandContext(n.t.Context(), n.holder, "--ping", "--holder="+folder)
	cmd.Env = []string{"PODID_TEST_AS_NMI=1"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// TestHolder: an agent that has no privilege serves pods, inside their network and by the redirect,
// with a holder beside it. Both may die.
func TestHolder(t *testing.T) {
	n := newSplit(t)
	folder := n.pair()
	agent := n.startAgent(folder)
	holder := n.startHolder(folder) // later than the agent, as containers may
	n.probe("/readyz", 200, "ok")
	n.capturing("1")
	n.wireProbed("arrives")
	n.asks("a token", "200 ")
	n.want(n.unopened, tokenURL, 200, "access_token")
	if err := n.ping(folder); err != nil {
		t.Errorf("a holder is asked whether it lives: %v", err)
	}

	// The agent dies. A request waits for the next one.
	agent.stop(syscall.SIGKILL)
	answer := make(chan string, 1)
	go func() { answer <- n.ask(n.pod, n.podGroup, service+tokenURL) }()
	agent = n.startAgent(folder)
	if got := <-answer; !strings.HasPrefix(got, "200 ") {
		t.Errorf("while no agent ran: %s", got)
	}
	n.probe("/readyz", 200, "ok")
	n.capturing("1")

	// The holder dies. Pods are served meanwhile, and new ones when it is back.
	holder.stop(syscall.SIGKILL)
	if err := n.ping(folder); err == nil {
		t.Error("a holder that was killed says that it lives")
	}
	n.asks("without the holder", "200 ")
	n.want(n.unopened, tokenURL, 200, "access_token")
	holder = n.startHolder(folder)
	newcomer := testnet.New(t)
	group := n.bound("new", "00000000-0000-4000-8000-00000000000b", map[string]any{"aadpodidbinding": "new"})
	n.grant("new")
	n.namespaces.Add("new", newcomer)
	testenv.Eventually(t, "a new pod", func() string {
		if got := n.ask(newcomer, group, service+tokenURL); !strings.HasPrefix(got, "200 ") {
			return got
		}
		return ""
	})

	if asked := n.questions(); asked == 0 {
		t.Error("no token came from the metadata service")
	}
	agent.stop(syscall.SIGKILL)
	holder.stop(syscall.SIGKILL)
	n.asks("without both", "Get")
	if _, _, err := n.get(n.unopened, metadataService, tokenURL); err == nil {
		t.Error("without both: the metadata service was reached")
	}
}

// TestHolderRolled: holder and agent are replaced while a pod asks without pause, by a pair, by an
// agent that is root and its own holder, and by one on the wire that does not see what captures. No
// request fails.
func TestHolderRolled(t *testing.T) {
	n := newSplit(t)
	n.addressed("web", "00000000-0000-4000-8000-00000000000a", "10.244.0.2")
	older := []*process{n.start(n.flags()...)}
	n.probe("/readyz", 200, "ok")
	n.capturing("1")
	stop := n.asksOn(n.pod, n.podGroup)
	for range 2 {
		folder := n.pair()
		holder, agent := n.startHolder(folder), n.startAgent(folder)
		agent.says(saysInPods)
		holder.says(saysPlaced)
		n.stopAll(older)
		older = []*process{agent, holder}
	}
	root := n.start(n.flags()...)
	root.says(saysPlaced)
	root.says(saysInPods)
	n.stopAll(older)
	folder := n.pair()
	older = []*process{n.startAgent(folder), n.startHolder(folder)}
	older[0].says(saysInPods)
	older[1].says(saysPlaced)
	root.stop(syscall.SIGTERM)
	wire := n.start("--prefetch-resources=", "--bpf-dir="+filepath.Join(n.folder, "none"))
	wire.says(saysPlaced)
	n.stopAll(older)
	n.asks("on the wire", "200 ")
	stop()
	n.want(n.unopened, tokenURL, 200, "access_token")
}

// stopAll stops processes at once, as the kubelet stops the containers of a pod.
func (n *split) stopAll(all []*process) {
	for _, p := range all {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, p := range all {
		p.stop(syscall.SIGTERM)
	}
}
