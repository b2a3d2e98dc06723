// The rig: a control plane, an emulated Azure and MICs, as processes on loopback in their own
// network namespace.
package faults_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kuberest "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/emulator"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/sandbox/controlplane"
	"github.com/podid-io/podid/internal/sandbox/pki"
)

const (
	// startTime is how long a part may take to start on a slow machine.
	startTime = 2 * time.Minute
	// lease is MIC's --leader-election-duration: short, but not lost when a slow machine takes
	// seconds to write.
	lease = 8 * time.Second
	// grace is MIC's --identity-detach-grace-period.
	grace = time.Second
	// never is for intervals of comparisons and sweeps that would hide a missing event.
	never = 24 * time.Hour
	// portsEach is the number of ports of a rig.
	portsEach = 20
	firstPort = 20000
)

// The ports of a rig, relative to its first.
const (
	portAPI = iota
	portEtcd
	portPeer
	portProbes  // and the next
	portMetrics = portProbes + 2
)

// rig holds the parts of one story.
type rig struct {
	t     testing.TB
	dir   string
	port  int
	rules identity.Rules

	kube   *kuberest.Config
	client client.Client
	azure  *emulator.Emulator
	etcd   *process
	api    *process
	mics   []*mic

	mu      sync.Mutex // guards everything below
	outages []outage
	retries []retried
	done    []string // what has happened
}

// mic is a MIC that should run. Its process changes when it is killed.
type mic struct {
	*process
	index int
}

// newRig starts everything but MIC. number distinguishes rigs that run at the same time.
func newRig(t *testing.T, number int) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "podid-faults-") //nolint:usetesting // it is kept when the story fails
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, dir: dir, port: firstPort + number*portsEach,
		rules: identity.Rules{ForceNamespaced: true, ClusterIdentities: clusterIdentities()},
	}
	t.Cleanup(r.end)
	r.startAzure()
	r.writePKI()
	r.startEtcd()
	r.startAPI()
	r.connect()
	return r
}

// end ends all processes. It keeps their logs if the story failed.
func (r *rig) end() {
	for _, m := range r.mics {
		m.kill()
	}
	for _, p := range []*process{r.api, r.etcd} {
		if p != nil {
			p.kill()
		}
	}
	if r.azure != nil {
		if err := r.azure.Close(context.Background()); err != nil {
			r.t.Log(err)
		}
	}
	if r.t.Failed() {
		r.t.Logf("what the parts wrote is in %s", r.dir)
		return
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) address(port int) string { return "127.0.0.1:" + strconv.Itoa(r.port+port) }

func (r *rig) startAzure() {
	doc := document()
	var err error
	r.azure, err = emulator.Start(r.t.Context(), emulator.Config{
		Dir: r.path("azure"), World: &doc, Logger: slog.New(slog.DiscardHandler),
		ARMAddress: "127.0.0.1:0", EntraAddress: "127.0.0.1:0", IMDSAddress: "127.0.0.1:0", ControlAddress: "127.0.0.1:0",
	})
	r.must(err)
}

// writePKI writes the certificates of the API server, of these tests and of MIC, and an audit
// policy for MIC's writes.
func (r *rig) writePKI() {
	authority, err := pki.NewAuthority(r.path("pki"), time.Now())
	r.must(err)
	for _, s := range []pki.Subject{
		{File: "apiserver", User: "kube-apiserver", DNS: []string{"localhost"}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
		{File: "admin", User: "admin", Group: "system:masters"},
		{File: "mic", User: "mic", Group: "system:masters"},
	} {
		r.must(authority.Issue(s))
	}
	for _, user := range []string{"admin", "mic"} {
		r.must(authority.Kubeconfig(user, "https://"+r.address(portAPI)))
	}
	r.must(authority.ServiceAccountKeys())
	r.must(os.WriteFile(r.path("audit.yaml"), []byte(auditPolicy), 0o600))
}

func (r *rig) startEtcd() {
	client, peer := "http://"+r.address(portEtcd), "http://"+r.address(portPeer)
	r.etcd = start(r.t, r.dir, "etcd", asset(r.t, "etcd"), nil,
		"--name=rig", "--data-dir="+r.path("data"), "--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=rig="+peer, "--unsafe-no-fsync")
}

// startAPI starts the API server and waits until it is ready.
func (r *rig) startAPI() {
	r.t.Helper()
	r.api = start(r.t, r.dir, "kube-apiserver", asset(r.t, "kube-apiserver"), nil,
		"--etcd-servers=http://"+r.address(portEtcd), "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+strconv.Itoa(r.port+portAPI),
		"--tls-cert-file="+r.path("pki/apiserver.crt"), "--tls-private-key-file="+r.path("pki/apiserver.key"),
		"--client-ca-file="+r.path("pki/ca.crt"), "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+r.path("pki/sa.pub"), "--service-account-signing-key-file="+r.path("pki/sa.key"),
		"--service-cluster-ip-range=10.96.0.0/24", "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount",
		"--audit-policy-file="+r.path("audit.yaml"), "--audit-log-path="+r.path("audit.log"))
	if r.kube == nil {
		var err error
		r.kube, err = clientcmd.BuildConfigFromFlags("", r.path("pki/admin.kubeconfig"))
		r.must(err)
		r.kube.QPS = -1 // these tests bound themselves
		r.kube.WarningHandler = kuberest.NoWarnings{}
		r.kube.Timeout = 30 * time.Second // a watch is not used
	}
	ctx, cancel := context.WithTimeoutCause(r.t.Context(), startTime, errors.New("it took too long"))
	defer cancel()
	api := r.api
	err := controlplane.WaitAPI(ctx, r.kube, func() error {
		if api.alive() {
			return nil
		}
		return fmt.Errorf("the API server has ended: %s", api.said(5))
	})
	r.must(err)
}

// connect creates the client, the kinds, the namespaces and the nodes.
func (r *rig) connect() {
	ctrl.SetLogger(logr.Discard())
	scheme := runtime.NewScheme()
	r.must(errors.Join(corev1.AddToScheme(scheme), v1.AddToScheme(scheme)))
	_, err := envtest.InstallCRDs(r.kube, envtest.CRDInstallOptions{Paths: []string{filepath.Join("..", "..", "config", "crd")}, ErrorIfPathMissing: true, MaxTime: startTime})
	r.must(err)
	r.client, err = client.New(r.kube, client.Options{Scheme: scheme})
	r.must(err)
	for _, ns := range append(namespaces(), steady) {
		r.must(r.client.Create(r.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}))
	}
	for _, n := range nodes() {
		r.must(r.client.Create(r.t.Context(), n))
	}
}

// restarts restarts a MIC that exits because it lost its Lease, as the kubelet does.
const restarts = `while ! "$0" "$@"; do sleep 1; done`

// startMIC starts a MIC, or restarts one that was killed.
func (r *rig) startMIC(index int) {
	r.t.Helper()
	for len(r.mics) <= index {
		r.mics = append(r.mics, &mic{index: len(r.mics)})
	}
	azure := r.azure.Endpoints()
	port := func(p int) string { return strconv.Itoa(r.port + p + index) }
	r.mics[index].process = start(r.t, r.dir, "mic-"+strconv.Itoa(index), "/bin/sh",
		[]string{"AZURE_ENVIRONMENT_FILEPATH=" + azure.Cloud, "SSL_CERT_FILE=" + azure.CA, "MIC_POD_NAMESPACE=default", "GOTRACEBACK=all"},
		"-c", restarts, binary(r.t, "mic"), "--kubeconfig="+r.path("pki/mic.kubeconfig"), "--cloudconfig="+azure.Azure, "--v=1",
		"--http-probe-port="+port(portProbes), "--prometheus-port="+port(portMetrics),
		"--leader-election-instance=mic-"+strconv.Itoa(index), "--leader-election-duration="+lease.String(),
		"--identity-detach-grace-period="+grace.String(), "--identity-assignment-reconcile-interval="+never.String(),
		"--cluster-identities="+clusterID()+","+clientOf(clusterID()), "--syncRetryDuration="+never.String(), "--update-user-msi-retry-interval=200ms")
}

// killMIC kills a MIC, which loses its memory.
func (r *rig) killMIC(index int) { r.mics[index].kill() }

// missing records a time without an API server.
func (r *rig) missing(o outage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outages = append(r.outages, o)
}

// retry records a change that succeeded after failures.
func (r *rig) retry(c retried) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retries = append(r.retries, c)
}

// note records an event for the analysis of a failure.
func (r *rig) note(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, clock(time.Now())+" "+what)
}

// asset returns a program of the control plane.
func asset(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("KUBEBUILDER_ASSETS")
	if dir == "" {
		t.Fatal("no kube-apiserver and etcd: run `make test-faults`, or let KUBEBUILDER_ASSETS name their folder")
	}
	return filepath.Join(dir, name)
}

// binary returns a program of this repository, from the checkout's bin or $PODID_BIN.
func binary(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("PODID_BIN")
	if dir == "" {
		dir = filepath.Join("..", "..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: build it with `make build`", err)
	}
	return path
}
