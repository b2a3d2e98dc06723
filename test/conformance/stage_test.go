// The stage: a node with its agent, an API server, an emulated Azure, and pods.
//
//	pod p0 10.200.0.2 ──┐
//	pod e0 10.200.1.2 ──┤  node: lo 169.254.169.254:80 (emulated metadata service), 127.0.0.1 (emulated Entra ID,
//	pod p1 …          ──┘        and a way to the API server), nmi
//
// The API server runs on the machine's own loopback; everything else is in network namespaces
// without a way out.
package conformance_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator"
	"github.com/podid-io/podid/internal/emulator/world"
	"github.com/podid-io/podid/internal/sandbox/programs"
	"github.com/podid-io/podid/internal/testnet"
)

const (
	metadataIP = "169.254.169.254"
	nodeName   = "node-1"
	namespace  = "shop"
	selector   = "clients"
)

// stage is everything that the clients need.
type stage struct {
	built

	dir     string
	node    *testnet.Net
	api     client.Client
	azure   *emulator.Emulator
	inside  *http.Client // in the node's network, trusting the emulator
	config  string       // the agent's kubeconfig
	clients []*sdk
	pods    int
	cpu     chan struct{} // bounds concurrent clients where their own time limits matter

	agent  *exec.Cmd
	exited chan error
	output *bytes.Buffer
}

func newStage(t *testing.T, b built) *stage {
	t.Helper()
	w := &stage{built: b, dir: t.TempDir(), node: testnet.New(t), clients: all(b), cpu: make(chan struct{}, max(2, runtime.NumCPU()))}
	w.node.Address(t, "lo", metadataIP+"/32")
	config := w.startCluster(t)
	w.startAzure(t, config)
	w.furnish(t)
	return w
}

// must fails the test because of something that is not tested here.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// startCluster starts an API server, and a relay to it from the node.
func (w *stage) startCluster(t *testing.T) *rest.Config {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		cache, err := programs.Cache(os.Getenv)
		must(t, err)
		assets = filepath.Join(cache, "assets")
	}
	source, err := programs.Source()
	must(t, err)
	server := &envtest.Environment{
		BinaryAssetsDirectory: assets, CRDDirectoryPaths: []string{filepath.Join(source, "config/crd")},
		ControlPlaneStartTimeout: atMost, ControlPlaneStopTimeout: atMost,
	}
	config, err := server.Start()
	if err != nil {
		t.Fatalf("start an API server: %v (its programs are in KUBEBUILDER_ASSETS, or made by bin/podid sandbox prepare)", err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Log(err)
		}
	})
	scheme := k8sruntime.NewScheme()
	must(t, corev1.AddToScheme(scheme))
	must(t, v1.AddToScheme(scheme))
	w.api, err = client.New(config, client.Options{Scheme: scheme})
	must(t, err)

	there, err := url.Parse(config.Host)
	if err != nil || there.Host == "" {
		there = &url.URL{Host: config.Host}
	}
	var here net.Listener
	must(t, w.node.Do(func() (err error) { here, err = net.Listen("tcp4", "127.0.0.1:0"); return err }))
	t.Cleanup(func() { _ = here.Close() })
	go relay(here, there.Host)
	text := bytes.ReplaceAll(server.KubeConfig, []byte(there.Host), []byte(here.Addr().String()))
	w.config = filepath.Join(w.dir, "kubeconfig")
	must(t, os.WriteFile(w.config, text, 0o600))
	return config
}

// relay forwards connections to an address of the machine.
func relay(from net.Listener, to string) {
	for {
		in, err := from.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = in.Close() }()
			out, err := net.Dial("tcp4", to)
			if err != nil {
				return
			}
			defer func() { _ = out.Close() }()
			go func() {
				_, _ = io.Copy(out, in)
				_ = out.Close()
			}()
			_, _ = io.Copy(in, out)
		}()
	}
}

// startAzure starts the emulated Azure in the node's network. It trusts the cluster's keys.
func (w *stage) startAzure(t *testing.T, config *rest.Config) {
	t.Helper()
	cluster, err := kubernetes.NewForConfig(config)
	must(t, err)
	get := func(path string) []byte {
		text, err := cluster.Discovery().RESTClient().Get().AbsPath(path).DoRaw(t.Context())
		must(t, err)
		return text
	}
	var discovery struct {
		Issuer string `json:"issuer"`
	}
	must(t, json.Unmarshal(get("/.well-known/openid-configuration"), &discovery))
	doc := scenery(t, w.clients, world.Issuer{Issuer: discovery.Issuer, JWKS: string(get("/openid/v1/jwks"))})
	const anyPort = "127.0.0.1:0"
	must(t, w.node.Do(func() (err error) {
		w.azure, err = emulator.Start(t.Context(), emulator.Config{
			Dir: filepath.Join(w.dir, "azure"), World: &doc, AllowNonLoopback: true, // it is the node's network
			ARMAddress: anyPort, EntraAddress: anyPort, ControlAddress: anyPort, IMDSAddress: metadataIP + ":80",
		})
		return err
	}))
	t.Cleanup(func() { _ = w.azure.Close(context.WithoutCancel(t.Context())) })
	ca, err := os.ReadFile(w.azure.Endpoints().CA)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	w.inside = &http.Client{Timeout: atMost, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		DialContext: func(_ context.Context, network, address string) (conn net.Conn, err error) {
			err = w.node.Do(func() (err error) { conn, err = net.Dial(network, address); return err })
			return conn, err
		},
	}}
}

// startAgent starts nmi on the node and waits until it is ready.
func (w *stage) startAgent(t *testing.T, args ...string) {
	t.Helper()
	w.output, w.exited = &bytes.Buffer{}, make(chan error, 1)
	w.agent = exec.Command(w.nmi, append([]string{
		"--node=" + nodeName, "--kubeconfig=" + w.config, "--authority-host=" + w.azure.Endpoints().Entra,
		// An agent waits one second for an identity that is being assigned, so that clients get the
		// 404 soon.
		"--retry-attempts-for-created=1", "--retry-attempts-for-assigned=0", "--find-identity-retry-interval=1",
	}, args...)...)
	w.agent.Env = []string{"SSL_CERT_FILE=" + w.azure.Endpoints().CA, "HOME=" + w.dir}
	w.agent.Stderr = w.output
	must(t, w.node.Do(w.agent.Start))
	exited := w.exited
	go func(cmd *exec.Cmd) { exited <- cmd.Wait() }(w.agent)
	t.Cleanup(func() { w.stopAgent(t) })
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		for t.Context().Err() == nil {
			resp, err := w.inside.Get("http://127.0.0.1:8080/readyz")
			if err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return
				}
			}
			<-time.After(50 * time.Millisecond)
		}
	}()
	select {
	case <-ready:
	case err := <-exited:
		exited <- err
		t.Fatalf("nmi ended: %v\n%s", err, w.output)
	case <-time.After(atMost):
		t.Fatalf("nmi is not ready")
	}
}

// stopAgent stops nmi, and logs its output if the test has failed.
func (w *stage) stopAgent(t *testing.T) {
	t.Helper()
	if w.agent == nil {
		return
	}
	_ = w.agent.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-w.exited:
		if err != nil {
			t.Errorf("nmi ended with %v", err)
		}
	case <-time.After(atMost):
		t.Error("nmi does not end")
		return
	}
	w.agent = nil
	if t.Failed() {
		lines := strings.Split(w.output.String(), "\n")
		t.Logf("nmi's last output:\n%s", strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
}

// pod is a pod in a network of its own.
type pod struct {
	name string
	net  *testnet.Net
	wire *wire
}

// newPod creates a running pod and its network.
func (w *stage) newPod(t *testing.T, name string, labels map[string]string) *pod {
	t.Helper()
	p := &pod{name: name, net: testnet.New(t)}
	link, subnet := fmt.Sprintf("pod%d", w.pods), fmt.Sprintf("10.200.%d", w.pods)
	w.pods++
	testnet.Veth(t, w.node, link, p.net, "eth0")
	w.node.Address(t, link, subnet+".1/24")
	p.net.Address(t, "eth0", subnet+".2/24")
	p.net.Route(t, "0.0.0.0/0", subnet+".1", "eth0")
	p.wire = listenOn(t, w.node, link)
	p.wire.end = func() error { // a packet after which everything before it has been seen
		return p.net.Do(func() error {
			conn, err := net.Dial("udp4", subnet+".1:9")
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			_, err = conn.Write([]byte(marker))
			return err
		})
	}
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: nodeName, ServiceAccountName: "default",
			Containers: []corev1.Container{{Name: "app", Image: "app"}},
		},
	}
	must(t, w.api.Create(t.Context(), object))
	object.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: subnet + ".2", PodIPs: []corev1.PodIP{{IP: subnet + ".2"}},
	}
	must(t, w.api.Status().Update(t.Context(), object))
	return p
}
