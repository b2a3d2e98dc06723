package main

import (
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/podid-io/podid/internal/testenv"
)

// startAPI starts an API server, and writes a kubeconfig of it.
func startAPI(t *testing.T) (*envtest.Environment, string) {
	t.Helper()
	env := testenv.Start(t)
	return env, testenv.Kubeconfig(t, env)
}

// azureNode returns a node, about whose VM mic asks Azure.
func azureNode() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.NodeSpec{
		ProviderID: "azure:///subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm",
	}}
}

// TestLeadership runs two MICs while Azure cannot be reached: a standby is ready, takes over when
// the leader ends, and exits when another process takes the Lease.
func TestLeadership(t *testing.T) {
	env, kubeconfig := startAPI(t)
	kube := env.Config

	// Before the kinds are installed, it is not ready and reports what is missing.
	first := start(t, kubeconfig, "--leader-election-instance=first", "--leader-election-duration=4s")
	first.wait("/readyz", http.StatusServiceUnavailable, "install podid's custom resource definitions")
	testenv.InstallCRDs(t, kube)
	first.wait("/readyz", http.StatusOK, "ok")
	first.wait("/healthz", http.StatusOK, "Active")
	first.eventually("leading", func() string {
		if _, body := first.get("metrics", "/metrics"); !strings.Contains(body, "aadpodidentity_mic_leader 1") {
			return "not leading"
		}
		return ""
	})

	second := start(t, kubeconfig, "--leader-election-instance=second", "--leader-election-duration=4s")
	second.wait("/readyz", http.StatusOK, "ok")
	second.wait("/healthz", http.StatusOK, "Not Active")
	first.end()
	second.wait("/healthz", http.StatusOK, "Active")

	c := testenv.Client(t, kube)
	// Azure does not respond: mic reports it and continues.
	testenv.Create(t, c, azureNode())
	second.wait("/readyz", http.StatusServiceUnavailable, "azure: ")
	second.wait("/healthz", http.StatusOK, "Active")

	// Another process takes the Lease.
	var lease coordinationv1.Lease
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "aad-pod-identity-mic"}, &lease); err != nil {
		t.Fatal(err)
	}
	thief := "thief"
	taken := lease.DeepCopy()
	taken.Spec.HolderIdentity = &thief
	if err := c.Patch(t.Context(), taken, client.MergeFrom(&lease)); err != nil {
		t.Fatal(err)
	}
	second.fails("lost the Lease default/aad-pod-identity-mic", "thief")
	second = start(t, kubeconfig, "--leader-election-instance=second", "--leader-election-duration=4s")
	second.wait("/healthz", http.StatusOK, "Active")
	second.end()
	for _, log := range []string{first.log.String(), second.log.String()} {
		if strings.Contains(log, "panic") {
			t.Error(log)
		}
	}
}

// TestTakeover runs processes with the default flags. Another process leads soon after the leader
// was terminated, and once the Lease has expired if the leader was killed.
func TestTakeover(t *testing.T) {
	env, kubeconfig := startAPI(t)
	testenv.InstallCRDs(t, env.Config)
	leader, process := startProcess(t, kubeconfig)
	leader.wait("/healthz", http.StatusOK, "Active")
	for _, c := range []struct {
		name  string
		leave func(*os.Process) error
		limit time.Duration
	}{
		{"told to end", func(p *os.Process) error { return p.Signal(syscall.SIGTERM) }, defaultLease / 2},
		{"killed", (*os.Process).Kill, timeout},
	} {
		next, its := startProcess(t, kubeconfig)
		next.wait("/readyz", http.StatusOK, "ok")
		next.wait("/healthz", http.StatusOK, "Not Active")
		began := time.Now()
		if err := c.leave(process); err != nil {
			t.Fatal(err)
		}
		next.wait("/healthz", http.StatusOK, "Active")
		next.logs(`msg="Starting workers" controller=assignedidentity`)
		took := time.Since(began)
		t.Logf("%s: a new leader after %v", c.name, took.Round(time.Millisecond))
		if took > c.limit {
			t.Errorf("took %v", took)
		}
		<-leader.code
		leader, process = next, its
	}
}

// TestControllersLog checks that the log has what the controllers write, such as why the type
// upgrade failed.
func TestControllersLog(t *testing.T) {
	env, kubeconfig := startAPI(t)
	testenv.InstallCRDs(t, env.Config)
	c := testenv.Client(t, env.Config)
	// MIC cannot record the upgrade where a ConfigMap is immutable.
	record := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "aad-pod-identity-config"}, Immutable: new(true)}
	testenv.Create(t, c, record)
	mic, _ := startProcess(t, kubeconfig)
	mic.wait("/healthz", http.StatusOK, "Active")
	for _, want := range []string{`level=info msg=leading`, `level=error msg="some objects are still spelled as before v1.6`, "record the upgrade in ConfigMap"} {
		mic.logs(want)
	}
	mic.end()
}
