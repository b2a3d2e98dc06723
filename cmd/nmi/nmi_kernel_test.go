package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/probe"
	"github.com/podid-io/podid/internal/testenv"
	"github.com/podid-io/podid/internal/testnet"
)

// TestMain makes the test binary behave as nmi, so that the real program can run in a network
// namespace.
func TestMain(m *testing.M) {
	if _, is := probe.Main(); is {
		return
	}
	if program := os.Getenv(refuseVariable); program != "" {
		refuseNFTables(program)
	}
	if os.Getenv("PODID_TEST_AS_NMI") == "1" {
		main()
	}
	if target := os.Getenv(askVariable); target != "" {
		ask(target)
	}
	hooktest.Main(m)
}

const (
	atMost      = 30 * time.Second
	tokenURL    = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net"
	identityOne = "/subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/one"
)

// node is a node with two pods, a metadata service and an API server, in network namespaces of
// their own:
//
//	web 10.244.0.2 ──┐
//	                 ├─ node: lo 169.254.169.254:80 (metadata service), 127.0.0.1 (API server)
//	api 10.244.1.2 ──┘
type node struct {
	t              *testing.T
	node, web, api *testnet.Net
	kube           *kube
	kubeconfig     string
	group          string                   // the control group of agents; empty is the test's own
	refuses        bool                     // agents may not use nftables
	admits         func(*http.Request) bool // reports whether the metadata service answers; nil is always

	mu    sync.Mutex
	asked []string    // of the metadata service
	down  atomic.Bool // the metadata service fails
}

func newNode(t *testing.T) *node {
	n := newNodeWithout(t)
	n.node.Address(t, "lo", "169.254.169.254/32")
	n.serve("169.254.169.254:80", http.HandlerFunc(n.metadata))
	return n
}

// newNodeWithout returns a node without the metadata service.
func newNodeWithout(t *testing.T) *node {
	testnet.Require(t)
	n := &node{t: t, node: testnet.New(t), web: testnet.New(t), api: testnet.New(t), kube: newKube()}
	for i, pod := range []*testnet.Net{n.web, n.api} {
		link := fmt.Sprint("pod", i)
		testnet.Veth(t, n.node, link, pod, "eth0")
		n.node.Address(t, link, fmt.Sprintf("10.244.%d.1/24", i))
		pod.Address(t, "eth0", fmt.Sprintf("10.244.%d.2/24", i))
		pod.Route(t, "0.0.0.0/0", fmt.Sprintf("10.244.%d.1", i), "eth0")
	}
	n.connectCluster()
	return n
}

// connectCluster starts the API server, on the node, and registers the node.
func (n *node) connectCluster() {
	n.kube.apply("nodes", "v1", "Node", "node-1", nil, nil)
	address := n.serve("127.0.0.1:0", n.kube)
	n.kubeconfig = filepath.Join(n.t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"x","clusters":[{"name":"x","cluster":{"server":"http://%s"}}],`+
		`"contexts":[{"name":"x","context":{"cluster":"x"}}]}`, address)
	if err := os.WriteFile(n.kubeconfig, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// serve serves in the node's namespace.
func (n *node) serve(address string, handler http.Handler) string {
	return n.serveIn(n.node, address, handler)
}

func (n *node) serveIn(where *testnet.Net, address string, handler http.Handler) string {
	var l net.Listener
	if err := where.Do(func() (err error) { l, err = net.Listen("tcp4", address); return err }); err != nil {
		n.t.Fatal(err)
	}
	s := &http.Server{Handler: handler, ReadHeaderTimeout: atMost}
	go func() { _ = s.Serve(l) }()
	n.t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// noIdentity is in tokens that the metadata service issues when no resource ID is named.
const noIdentity = "."

// metadata is the metadata service: it issues a token to every client. The token's object ID is the
// name of the identity.
func (n *node) metadata(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.asked = append(n.asked, r.URL.String())
	n.mu.Unlock()
	if n.down.Load() {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	if n.admits != nil && !n.admits(r) {
		http.Error(w, "not signed", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !strings.HasPrefix(r.URL.Path, "/metadata/identity/") {
		_, _ = io.WriteString(w, `{"compute":"node"}`)
		return
	}
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"oid":%q}`, path.Base(r.URL.Query().Get("msi_res_id"))))
	_ = json.NewEncoder(w).Encode(map[string]string{
		"access_token": "e30." + claims + ".s", "expires_on": fmt.Sprint(time.Now().Add(time.Hour).Unix()), "resource": r.URL.Query().Get("resource"),
	})
}

func (n *node) questions() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.asked)
}

func (n *node) pod(name, ip, phase string) {
	n.kube.apply("pods", "v1", "Pod", name, map[string]any{
		"spec":   map[string]any{"nodeName": "node-1", "containers": []any{}},
		"status": map[string]any{"phase": phase, "podIP": ip, "podIPs": []any{map[string]any{"ip": ip}}, "hostIP": "10.244.0.1"},
	}, map[string]any{"aadpodidbinding": name})
}

func (n *node) grant(pod string) {
	spec := map[string]any{"type": 0, "resourceID": identityOne, "clientID": "11111111-1111-1111-1111-111111111111"}
	const group = "aadpodidentity.k8s.io/v1"
	n.kube.apply("azureidentities", group, "AzureIdentity", "one", map[string]any{"spec": spec}, nil)
	n.kube.apply("azureidentitybindings", group, "AzureIdentityBinding", "to-"+pod, map[string]any{"spec": map[string]any{"azureIdentity": "one", "selector": pod}}, nil)
	n.kube.apply("azureassignedidentities", group, "AzureAssignedIdentity", pod+"-shop-one", map[string]any{
		"spec":   map[string]any{"pod": pod, "podNamespace": "shop", "nodename": "node-1", "azureIdentityRef": map[string]any{"metadata": map[string]any{"name": "one", "namespace": "shop"}, "spec": spec}},
		"status": map[string]any{"status": "Assigned"},
	}, map[string]any{"nodename": "node-1"})
}

// process is a running nmi.
type process struct {
	n      *node
	cmd    *exec.Cmd
	exited chan error
	log    *journal
}

// endsAtOnce keeps the race detector from waiting a second at the end of a process.
const endsAtOnce = "GORACE=atexit_sleep_ms=0"

// start runs nmi in the node's namespace.
func (n *node) start(args ...string) *process {
	n.t.Helper()
	return n.startProgram(os.Args[0], args...)
}

func (n *node) startProgram(program string, args ...string) *process {
	n.t.Helper()
	p := &process{n: n, exited: make(chan error, 1), log: newJournal()}
	p.cmd = exec.CommandContext(n.t.Context(), program, append([]string{"--node=node-1", "--kubeconfig=" + n.kubeconfig}, args...)...)
	// Nothing listens there: a request to the metadata service that used the proxy would fail.
	p.cmd.Env = []string{"PODID_TEST_AS_NMI=1", endsAtOnce, "HTTP_PROXY=http://192.0.2.1:3128", "http_proxy=http://192.0.2.1:3128"}
	if n.refuses {
		p.cmd.Env = append(p.cmd.Env, refuseVariable+"=-")
	}
	p.cmd.Stderr = p.log
	if n.group != "" {
		folder, err := os.Open(n.group)
		if err != nil {
			n.t.Fatal(err)
		}
		defer func() { _ = folder.Close() }()
		p.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())}
	}
	// The context ends the process, if nothing else does. Its output is read after that.
	if err := n.node.Do(p.cmd.Start); err != nil {
		n.t.Fatal(err)
	}
	p.runs()
	return p
}

// runs waits for the process, and ends it with the test, by SIGKILL: after SIGTERM an agent serves
// for three more seconds. If the test has failed, the output of the process is logged.
func (p *process) runs() {
	go func() { p.exited <- p.cmd.Wait() }()
	p.n.t.Cleanup(func() {
		p.stop(syscall.SIGKILL)
		if strings.Contains(p.log.String(), "DATA RACE") {
			p.n.t.Error("a race in nmi")
		}
		if p.n.t.Failed() {
			p.n.t.Logf("%v:\n%s", p.cmd.Args, p.log)
		}
	})
}

func (p *process) stop(signal syscall.Signal) {
	_ = p.cmd.Process.Signal(signal)
	err, ended := p.ended(atMost)
	if !ended {
		p.n.t.Errorf("nmi does not end\n")
	}
	if signal == syscall.SIGTERM && err != nil {
		p.n.t.Errorf("nmi ended with %v\n%s", err, p.log)
	}
}

// ends waits for the end of a process that ends by itself.
func (p *process) ends() error {
	p.n.t.Helper()
	err, ended := p.ended(atMost)
	if !ended {
		p.n.t.Fatalf("%v does not end\n%s", p.cmd.Args, p.log)
	}
	return err
}

// ended reports whether a process ends within a time, and how. It may be called again.
func (p *process) ended(within time.Duration) (err error, ended bool) {
	select {
	case err := <-p.exited:
		p.exited <- err
		return err, true
	case <-time.After(within):
		return nil, false
	}
}

// get sends a request from a namespace on a new connection.
func (n *node) get(from *testnet.Net, address, target string) (int, string, error) {
	return n.getWithin(atMost, from, address, target)
}

// getWithin is get with a bound on connecting.
func (n *node) getWithin(limit time.Duration, from *testnet.Net, address, target string) (int, string, error) {
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", address, limit)
		return err
	})
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(atMost)); err != nil {
		return 0, "", err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n", target); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// wrong returns "" if a request gets this answer, and otherwise what it gets.
func (n *node) wrong(from *testnet.Net, address, target string, status int, says string) string {
	got, body, err := n.get(from, address, target)
	if err != nil || got != status || !strings.Contains(body, says) {
		return fmt.Sprintf("got %d %s %v, want %d and %q", got, body, err, status, says)
	}
	return ""
}

const metadataService = "169.254.169.254:80"

// want sends a request from a pod to the metadata service.
func (n *node) want(from *testnet.Net, target string, status int, says string) {
	n.t.Helper()
	if wrong := n.wrong(from, metadataService, target, status, says); wrong != "" {
		n.t.Errorf("%s: %s", target, wrong)
	}
}

// wantSoon does the same until a change is visible.
func (n *node) wantSoon(from *testnet.Net, target string, status int, says string) {
	n.t.Helper()
	testenv.Eventually(n.t, target, func() string { return n.wrong(from, metadataService, target, status, says) })
}

// probe waits until a probe answers with the status.
func (n *node) probe(target string, status int, says string) {
	n.t.Helper()
	testenv.Eventually(n.t, target, func() string { return n.wrong(n.node, "127.0.0.1:8080", target, status, says) })
}

// active waits until the redirect is in place. Before that the probe's answer is "Not Active".
func (n *node) active() {
	n.t.Helper()
	testenv.Eventually(n.t, "the redirect is in place", func() string {
		status, body, err := n.get(n.node, "127.0.0.1:8080", "/healthz")
		if err != nil || status != http.StatusOK || body != "Active" {
			return fmt.Sprintf("%d %s %v", status, body, err)
		}
		return ""
	})
}

// TestNode runs an agent on a node from its start to its end.
func TestNode(t *testing.T) {
	n := newNode(t)
	n.pod("web", "10.244.0.2", "Running")
	n.pod("api", "10.244.1.2", "Running")
	n.grant("web")
	p := n.start("--prefetch-resources=") // the test counts the requested tokens
	n.probe("/readyz", 200, "ok")
	n.active()

	n.want(n.web, tokenURL, 200, `"resource":"https://vault.azure.net"`)
	n.want(n.web, tokenURL, 200, `"access_token"`)
	if asked := n.questions(); asked != 1 {
		t.Errorf("the metadata service was asked %d times for one token", asked)
	}
	n.want(n.api, "/metadata//identity/oauth2/token", 404, "")
	n.want(n.api, "/metadata/identity/info?api-version=2018-02-01", 404, "")
	if asked := n.questions(); asked != 1 {
		t.Errorf("something was passed on: %v", n.asked)
	}
	n.want(n.api, "/metadata/instance?api-version=2021-02-01", 200, "compute")

	// The binding is created while the pod waits for it.
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		n.want(n.api, tokenURL, 200, "access_token")
	}()
	n.grant("api")
	<-waited

	// A finished pod gets nothing, although its address still sends requests. Neither does a pod
	// whose binding was deleted.
	n.kube.remove("azureidentitybindings", "to-api")
	n.pod("web", "10.244.0.2", "Succeeded")
	n.wantSoon(n.web, tokenURL, 500, "does not know the pod")
	n.wantSoon(n.api, tokenURL+"&client_id=11111111-1111-1111-1111-111111111111", 404, "AzureIdentityBinding")

	// The agent is reachable through the redirect only.
	if status, _, err := n.get(n.web, "169.254.171.79:2579", tokenURL); err == nil {
		t.Errorf("the agent's own address answered a pod: %d", status)
	}
	if status, body, err := n.get(n.node, "127.0.0.1:2579", "/healthz"); err != nil || status != 200 || body != "Active" {
		t.Errorf("old probe: %d %s %v", status, body, err)
	}

	// Without the agent, pods are refused and do not reach the metadata service.
	asked := n.questions()
	p.stop(syscall.SIGTERM)
	if _, _, err := n.get(n.web, metadataService, tokenURL); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without the agent: %v, want connection refused", err)
	}
	if n.questions() != asked {
		t.Error("without the agent a pod reached the metadata service")
	}
	if text := p.log.String(); strings.Contains(text, "e30.") || strings.Contains(text, "11111111-1111-1111-1111-111111111111 ") {
		t.Errorf("the log holds a token or a whole client id:\n%s", text)
	}
}

// TestNodeWithoutCluster: an agent that cannot reach its API server refuses requests, is not ready,
// and reports why.
func TestNodeWithoutCluster(t *testing.T) {
	n := newNode(t)
	p := n.start("--http-probe-port=8080", "--kubeconfig="+n.deadEnd())
	n.active()
	n.probe("/readyz", 503, "cluster: reach the API server")
	n.want(n.web, tokenURL, 500, "does not know the cluster")
	n.want(n.web, "/metadata/identity/oauth2/token", 400, "api-version")
	if asked := n.questions(); asked != 0 {
		t.Errorf("something was passed on: %v", n.asked)
	}
	p.stop(syscall.SIGTERM)
}

// TestNodeUnknown: an agent whose node the API server does not know serves pods, after a while.
func TestNodeUnknown(t *testing.T) {
	n := newNode(t)
	n.kube.remove("nodes", "node-1")
	n.pod("web", "10.244.0.2", "Running")
	n.grant("web")
	n.start()
	n.probe("/readyz", 200, "ok")
	n.want(n.web, tokenURL, 200, "access_token")
}

// TestNodeOfHostRouting: an agent is not ready while its node is marked as one whose packets pass
// by the redirect.
func TestNodeOfHostRouting(t *testing.T) {
	n := newNode(t)
	mark := func(value string) {
		n.kube.apply("nodes", "v1", "Node", "node-1", nil, map[string]any{v1.HostRoutingLabel: value})
	}
	mark("true")
	n.start("--http-probe-port=8080")
	n.active()
	n.probe("/readyz", 503, "dataplane: node label kubernetes.azure.com/ebpf-host-routing=true")
	mark("false")
	n.probe("/readyz", 200, "ok")
}

// deadEnd returns a kubeconfig of an API server that does not exist.
func (n *node) deadEnd() string {
	n.t.Helper()
	text := strings.NewReplacer("127.0.0.1:", "127.0.0.2:").Replace(mustRead(n.t, n.kubeconfig))
	path := filepath.Join(n.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	return path
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
