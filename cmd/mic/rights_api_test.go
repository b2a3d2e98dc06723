package main

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/podid-io/podid/internal/testenv"
)

// TestRights checks that MIC names a missing right and waits for it, and that the rights that the
// chart grants on the Lease, by its name, are enough.
func TestRights(t *testing.T) {
	env, _ := startAPI(t)
	testenv.InstallCRDs(t, env.Config)
	user, err := env.AddUser(envtest.User{Name: "mic"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c := testenv.Client(t, env.Config)
	read := []string{"get", "list", "watch"}
	testenv.Grant(t, c, "mic", "most",
		rbacv1.PolicyRule{APIGroups: []string{"aadpodidentity.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"*"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes", "configmaps"}, Verbs: read},
		rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create"}},
		rbacv1.PolicyRule{
			APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"},
			ResourceNames: []string{"aad-pod-identity-mic"}, Verbs: []string{"get", "update"},
		})
	mic := start(t, kubeconfig)
	mic.wait("/readyz", http.StatusServiceUnavailable, "may not list or watch: pods is forbidden")
	testenv.Grant(t, c, "mic", "pods", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: read})
	mic.wait("/readyz", http.StatusOK, "ok")
	mic.wait("/healthz", http.StatusOK, "Active")
	mic.end()
}
