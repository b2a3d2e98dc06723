package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// TestLeadership is the story of two MICs and of Azure out of reach: one leads,
// the other is ready; the leader leaves and the other takes over; the Lease is
// taken away and mic comes back.
func TestLeadership(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("needs an API server: run make test-api")
	}
	env := &envtest.Environment{}
	kube, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}

	// Before the kinds are installed: not ready, and says what is missing.
	first := start(t, kubeconfig, "--leader-election-instance=first", "--leader-election-duration=4s")
	first.wait("/readyz", http.StatusServiceUnavailable, "install podid's custom resource definitions")
	if _, err := envtest.InstallCRDs(kube, envtest.CRDInstallOptions{
		Paths: []string{filepath.Join("..", "..", "config", "crd")}, ErrorIfPathMissing: true,
	}); err != nil {
		t.Fatal(err)
	}
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
	second.eventually("takes over", func() string {
		if _, body := second.get("probes", "/healthz"); body != "Active" {
			return body
		}
		return ""
	})

	c, err := client.New(kube, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Azure does not answer: mic says so, and lives.
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.NodeSpec{
		ProviderID: "azure:///subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm",
	}}
	if err := c.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	second.wait("/readyz", http.StatusServiceUnavailable, "azure: ")
	second.wait("/healthz", http.StatusOK, "Active")

	// Somebody else takes the Lease.
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
	second.wait("/healthz", http.StatusOK, "Not Active")
	second.eventually("leads again", func() string {
		if _, body := second.get("probes", "/healthz"); body != "Active" {
			return body
		}
		return ""
	})
	second.end()
	if strings.Contains(second.log.String(), "panic") {
		t.Error(second.log.String())
	}
}
