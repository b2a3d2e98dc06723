package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

// askVariable makes the test binary a client, which asks at a URL and prints the answer.
const askVariable = "PODID_TEST_ASK"

const service, listener = "http://169.254.169.254", "http://127.0.0.1:64579" // the latter in a pod's network

func ask(url string) {
	answer, err := answerOf(url)
	if err != nil {
		answer = err.Error()
	}
	_, _ = os.Stdout.WriteString(answer)
	os.Exit(0)
}

// answerOf returns the status and the body of an answer.
func answerOf(url string) (string, error) {
	request, err := http.NewRequest(http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	request.Header.Set("Metadata", "true")
	resp, err := (&http.Client{Timeout: atMost}).Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode, " ", string(body)), err
}

// inPods is a node whose agent captures inside pods.
type inPods struct {
	*node
	top, system string // control groups
	namespaces  *hooktest.Namespaces
	pins        string
	lock        string
	more        []string // flags
}

func newInPods(t *testing.T) *inPods {
	hooktest.Require(t)
	return newCapturing(newNode(t))
}

func newInPodsOn(n *node) *inPods {
	hooktest.Require(n.t)
	return newCapturing(n)
}

// newCapturing is newInPodsOn on any kernel.
func newCapturing(n *node) *inPods {
	t := n.t
	top := hooktest.Groups(t)
	hooktest.Group(t, top, "kubepods")
	return &inPods{
		node: n, top: top, system: hooktest.Group(t, top, "system"), namespaces: hooktest.NewNamespaces(t),
		// The agent is another process.
		pins: strings.Replace(hooktest.Pins(t), "/self/", "/"+strconv.Itoa(os.Getpid())+"/", 1),
		lock: filepath.Join(t.TempDir(), "lock"),
	}
}

func (n *inPods) flags() []string {
	return append([]string{
		"--capture=prefer", "--cgroup-dir=" + n.top, "--netns-dir=" + n.namespaces.Folder, "--bpf-dir=" + n.pins,
		"--holder-lock=" + n.lock, "--prefetch-resources=",
	}, n.more...)
}

// bound creates a pod that is bound to the node and has no address yet. It returns its control
// group.
func (n *inPods) bound(name, uid string, labels map[string]any) string {
	n.kube.apply("pods", "v1", "Pod", name, map[string]any{
		"metadata": map[string]any{
			"namespace": "shop", "name": name, "uid": uid, "resourceVersion": "1000", "labels": labels,
		},
		"spec":   map[string]any{"nodeName": "node-1", "containers": []any{}},
		"status": map[string]any{"phase": "Pending"},
	}, nil)
	return hooktest.Group(n.t, n.top, "kubepods", "burstable", "pod"+uid, "app")
}

// addressed gives a pod an address.
func (n *inPods) addressed(name, uid, ip string) {
	n.kube.apply("pods", "v1", "Pod", name, map[string]any{
		"metadata": map[string]any{
			"namespace": "shop", "name": name, "uid": uid, "resourceVersion": "2000", "labels": map[string]any{"aadpodidbinding": name},
		},
		"spec":   map[string]any{"nodeName": "node-1", "containers": []any{}},
		"status": map[string]any{"phase": "Running", "podIP": ip, "podIPs": []any{map[string]any{"ip": ip}}, "hostIP": "10.244.0.1"},
	}, nil)
}

// ask asks as a process in a network namespace and a control group.
func (n *inPods) ask(in *testnet.Net, group, url string) string {
	n.t.Helper()
	folder, err := os.Open(group)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = folder.Close() }()
	command := exec.CommandContext(n.t.Context(), os.Args[0])
	command.Env = append(os.Environ(), askVariable+"="+url, endsAtOnce)
	command.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd()), Pdeathsig: syscall.SIGKILL}
	var out []byte
	if err := in.Do(func() (err error) { out, err = command.Output(); return err }); err != nil {
		n.t.Fatalf("client: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// capturing waits until the agent captures inside pods, or no longer does.
func (n *inPods) capturing(value string) {
	n.t.Helper()
	want := "aadpodidentity_nmi_capture_in_pods " + value + "\n"
	for deadline := time.Now().Add(atMost); ; {
		_, body, err := n.get(n.node.node, "127.0.0.1:9090", "/metrics")
		if err == nil && strings.Contains(body, want) {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("no %q in the metrics: %v", want, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// TestCaptureInPods: a pod without any network but its own loopback device gets its token, from
// when it is bound to the node. Others in its network get none.
func TestCaptureInPods(t *testing.T) {
	n := newInPods(t)
	pod, other := testnet.New(t), testnet.New(t)
	mine := n.bound("web", "00000000-0000-4000-8000-00000000000a", map[string]any{"aadpodidbinding": "web"})
	theirs := n.bound("api", "00000000-0000-4000-8000-00000000000b", nil)
	n.grant("web")
	n.kube.apply("nodes", "v1", "Node", "node-1", nil, map[string]any{v1.HostRoutingLabel: "true"})
	n.namespaces.Add("web", pod)
	n.namespaces.Add("api", other)
	p := n.start(n.flags()...)
	n.probe("/readyz", 200, "ok")
	n.capturing("1")

	expect := func(what string, in *testnet.Net, group, url, want string) {
		t.Helper()
		if got := n.ask(in, group, url); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	expect("the pod", pod, mine, service+tokenURL, "200 ")
	expect("a pod without a binding", other, theirs, service+tokenURL, "400 ")
	expect("another pod's process in the pod's network", pod, theirs, service+tokenURL, "400 ")
	expect("the pod's process in another pod's network", other, mine, service+tokenURL, "200 ")
	expect("the node's process at the pod's listener", pod, n.system, listener+tokenURL, "403 ")
	expect("the pod at its listener", pod, mine, listener+tokenURL, "200 ")
	if asked := n.questions(); asked != 1 {
		t.Errorf("the metadata service was asked %d times", asked)
	}

	if text := p.log.String(); !strings.Contains(text, "capturing requests inside pods") || strings.Contains(text, "e30.") {
		t.Errorf("log:\n%s", text)
	}
	p.stop(syscall.SIGKILL)
	if got := n.ask(pod, mine, service+tokenURL); !strings.Contains(got, "connection refused") {
		t.Errorf("without the agent: %s", got)
	}
	n.start(n.flags()...)
	n.capturing("1")
	expect("after a new start", pod, mine, service+tokenURL, "200 ")
	expect("instance metadata", other, theirs, service+"/metadata/instance?api-version=2021-02-01", "200 ")
}

// TestCaptureRequired: pods are answered inside their own network only.
func TestCaptureRequired(t *testing.T) {
	n := newInPods(t)
	group := n.bound("web", "00000000-0000-4000-8000-00000000000a", map[string]any{"aadpodidbinding": "web"})
	n.grant("web")
	n.pod("api", "10.244.1.2", "Running") // its network has no listener, as with a sandboxed runtime
	n.grant("api")
	n.namespaces.Add("web", n.web)
	p := n.start(append(n.flags(), "--capture=require")...)
	n.probe("/readyz", 200, "ok")
	if got := n.ask(n.web, group, service+tokenURL); !strings.HasPrefix(got, "200 ") {
		t.Error(got)
	}
	n.want(n.api, tokenURL, 403, "PID-128")
	absent := n.bound("absent", "00000000-0000-4000-8000-00000000000b", nil)
	testenv.Eventually(t, "a pod whose network has no listener is refused where it connects", func() string {
		if got := n.ask(n.api, absent, service+tokenURL); !strings.Contains(got, "connection refused") {
			return got
		}
		return ""
	})
	n.want(n.api, "/metadata/instance?api-version=2021-02-01", 403, "PID-128")
	p.stop(syscall.SIGKILL)
	if err := os.RemoveAll(n.pins); err != nil {
		t.Log(err)
	}
	n.start(append(n.flags(), "--capture=require", "--cgroup-dir="+n.system)...)
	n.probe("/readyz", 503, "capture: find the pods' control group")
}

// TestCaptureRolled: an agent is replaced while a pod asks without pause. No request fails.
func TestCaptureRolled(t *testing.T) {
	n := newInPods(t)
	pod := testnet.New(t)
	group := n.bound("web", "00000000-0000-4000-8000-00000000000a", map[string]any{"aadpodidbinding": "web"})
	n.grant("web")
	n.namespaces.Add("web", pod)
	older := n.start(n.flags()...)
	n.probe("/readyz", 200, "ok")
	n.capturing("1")
	n.rolls(pod, group, older, slices.Repeat([]rolled{{"prefer", saysInPods}}, 3)...)
}

// TestCaptureSwitched: an agent is replaced by one with another --capture. No request fails on a
// network that both ways work on.
func TestCaptureSwitched(t *testing.T) {
	n := newInPods(t)
	group := n.bound("web", "00000000-0000-4000-8000-00000000000a", map[string]any{"aadpodidbinding": "web"})
	n.addressed("web", "00000000-0000-4000-8000-00000000000a", "10.244.0.2")
	n.grant("web")
	n.namespaces.Add("web", n.web)
	older := n.start(append(n.flags(), "--capture=wire")...)
	n.probe("/readyz", 200, "ok")
	n.rolls(n.web, group, older, rolled{"prefer", saysInPods}, rolled{"wire", "no longer capturing requests inside pods"},
		rolled{"require", saysInPods}, rolled{"prefer", saysInPods}, rolled{"require", saysInPods})
}

// rolled is an agent that replaces another one, and what it logs once it serves pods.
type rolled struct{ capture, says string }

// asksOn lets a pod ask without pause until stop is called. Each request must get a token.
func (n *inPods) asksOn(pod *testnet.Net, group string) (stop func()) {
	ended, asked := make(chan struct{}), make(chan int)
	go func() {
		count := 0
		defer func() { asked <- count }()
		for {
			select {
			case <-ended:
				return
			default:
			}
			if got := n.ask(pod, group, service+tokenURL); !strings.HasPrefix(got, "200 ") {
				n.t.Errorf("request %d: %s", count, got)
			}
			count++
		}
	}()
	return func() {
		n.t.Helper()
		close(ended)
		if count := <-asked; count < 10 {
			n.t.Errorf("only %d requests", count)
		}
	}
}

// rolls replaces an agent several times while a pod asks without pause.
func (n *inPods) rolls(pod *testnet.Net, group string, older *process, agents ...rolled) {
	t := n.t
	t.Helper()
	stop := n.asksOn(pod, group)
	for _, agent := range agents { // as the DaemonSet does: the old one ends when the new one is ready
		newer := n.start(append(n.flags(), "--capture="+agent.capture)...)
		newer.says(saysPlaced)
		newer.says(agent.says)
		older.stop(syscall.SIGTERM)
		older = newer
	}
	stop()
}

// TestCaptureRemoved: nmi --cleanup removes what captures inside pods.
func TestCaptureRemoved(t *testing.T) {
	n := newInPods(t)
	group := n.bound("web", "00000000-0000-4000-8000-00000000000a", map[string]any{"aadpodidbinding": "web"})
	n.namespaces.Add("web", n.web)
	p := n.start(n.flags()...)
	n.capturing("1")
	p.stop(syscall.SIGTERM)
	if got := n.ask(n.web, group, service+tokenURL); !strings.Contains(got, "connection refused") {
		t.Errorf("without the agent: %s", got)
	}
	clean := n.start("--cleanup", "--bpf-dir="+n.pins)
	err := <-clean.exited
	if clean.exited <- err; err != nil {
		t.Fatalf("%v:\n%s", err, clean.log.String())
	}
	if _, err := os.Stat(n.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins: %v", err)
	}
	if got := n.ask(n.web, group, service+"/metadata/instance?api-version=2021-02-01"); !strings.HasPrefix(got, "200 ") {
		t.Errorf("afterwards: %s", got)
	}
}

// TestCaptureTurnedOff: pods are served on the wire by an agent that no longer captures inside
// them.
func TestCaptureTurnedOff(t *testing.T) {
	n := newInPods(t)
	group := n.bound("web", "00000000-0000-4000-8000-00000000000a", map[string]any{"aadpodidbinding": "web"})
	n.grant("web")
	n.namespaces.Add("web", n.web)
	p := n.start(n.flags()...)
	n.capturing("1")
	p.stop(syscall.SIGKILL)
	n.pod("web", "10.244.0.2", "Running")
	p = n.start(append(n.flags(), "--capture=wire")...)
	p.says("no longer capturing requests inside pods")
	if got := n.ask(n.web, group, service+tokenURL); !strings.HasPrefix(got, "200 ") {
		t.Error(got)
	}
}

// TestCaptureKept: an agent on the wire does not open the way to the metadata service where packets
// of pods pass by the wire. It is not ready, and pods are refused.
func TestCaptureKept(t *testing.T) {
	n := newInPods(t)
	group := n.bound("web", "00000000-0000-4000-8000-00000000000a", map[string]any{"aadpodidbinding": "web"})
	n.grant("web")
	n.kube.apply("nodes", "v1", "Node", "node-1", nil, map[string]any{v1.HostRoutingLabel: "true"})
	n.namespaces.Add("web", n.web)
	p := n.start(n.flags()...)
	n.capturing("1")
	p.stop(syscall.SIGTERM)
	n.pod("web", "10.244.0.2", "Running")
	p = n.start(append(n.flags(), "--capture=wire")...)
	p.says("redirect put in place")
	n.probe("/readyz", 503, "dataplane: node label "+v1.HostRoutingLabel)
	if got := n.ask(n.web, group, service+tokenURL); !strings.Contains(got, "connection refused") {
		t.Errorf("the pod: %s", got)
	}
	p.stop(syscall.SIGKILL)
	if text := p.log.String(); strings.Contains(text, "no longer capturing") {
		t.Errorf("log:\n%s", text)
	}
}

// TestCaptureImpossible: where nothing can be captured inside pods, pods are served on the wire.
func TestCaptureImpossible(t *testing.T) {
	n := newInPods(t)
	if err := os.Remove(filepath.Join(n.top, "kubepods")); err != nil {
		t.Fatal(err)
	}
	n.pod("web", "10.244.0.2", "Running")
	n.grant("web")
	p := n.start(n.flags()...)
	n.probe("/readyz", 200, "ok")
	n.want(n.web, tokenURL, 200, "access_token")
	n.capturing("0")
	p.says("no control group of pods")
}

// TestCaptureOldKernel: on a kernel that is too old, pods are served on the wire, and the log says
// why. make test-kernels runs it.
func TestCaptureOldKernel(t *testing.T) {
	testnet.Require(t)
	if !hooktest.TooOld(t) {
		t.Skip("for kernels before Linux 5.14")
	}
	n := newCapturing(newNode(t))
	n.pod("web", "10.244.0.2", "Running")
	n.grant("web")
	n.namespaces.Add("web", n.web)
	p := n.start(n.flags()...)
	n.probe("/readyz", 200, "ok")
	p.says("needs Linux 5.14")
	n.want(n.web, tokenURL, 200, "access_token")
	n.capturing("0")
	p.stop(syscall.SIGTERM)
	if text := p.log.String(); strings.Contains(text, "cannot remove") {
		t.Errorf("log:\n%s", text)
	}
	if _, err := os.Stat(n.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins: %v", err)
	}
	n.start(append(n.flags(), "--capture=require")...)
	n.probe("/readyz", 503, "needs Linux 5.14")
}
