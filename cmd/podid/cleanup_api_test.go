package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/testenv"
)

// TestCleanup runs what a user types after an uninstall that went wrong.
func TestCleanup(t *testing.T) {
	for _, name := range []string{"USE_MSI", "TENANT_ID", "CLIENT_ID"} {
		t.Setenv(name, "") // without Azure
	}
	kubeconfig, c := startCluster(t)
	testenv.Create(t, c, &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p-default-red", Finalizers: []string{v1.Finalizer}},
		Spec:       v1.AzureAssignedIdentitySpec{Pod: "p", PodNamespace: "default"},
	})
	testenv.Create(t, c, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "ledger", Labels: map[string]string{"app.kubernetes.io/managed-by": "podid-mic"}},
		Data: map[string]string{
			"group":      `{"kind":"vm","subscriptionID":"s","resourceGroup":"rg","name":"vm-1"}`,
			"identities": `[{"resourceID":"/subscriptions/s/x/blue"}]`,
		},
	})

	for _, step := range []struct {
		name           string
		args           string
		code           int
		stdout, stderr string
	}{
		{"look", "--dry-run", 0, "delete   AzureAssignedIdentity   default     p-default-red   pod default/p is gone\n", "1 to delete, 1 to skip"},
		{"look at IDs", "--dry-run -o wide", 0, "/subscriptions/s/x/blue", ""},
		{"elsewhere", "--dry-run -n kube-system", 0, "", "nothing to clean up"},
		{"no confirmation", "", 1, "", "no confirmation: use --yes"},
		{"do it", "--yes", 2, "", "deleted azureassignedidentity default/p-default-red\n"},
		{"again", "--yes", 2, "", "left: Identity /subscriptions/s/x/blue: no cloud config"},
	} {
		t.Run(step.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append([]string{"cleanup", "--kubeconfig", kubeconfig}, strings.Fields(step.args)...)
			if code := run(t.Context(), args, &stdout, &stderr); code != step.code {
				t.Errorf("exit code %d, want %d", code, step.code)
			}
			if !strings.Contains(stdout.String(), step.stdout) || !strings.Contains(stderr.String(), step.stderr) {
				t.Errorf("stdout:\n%s\nstderr:\n%s", &stdout, &stderr)
			}
		})
	}

	for _, format := range []string{"json", "yaml"} {
		var stdout bytes.Buffer
		if code := run(t.Context(), []string{"cleanup", "--kubeconfig", kubeconfig, "--dry-run", "-o", format}, &stdout, &bytes.Buffer{}); code != 0 {
			t.Errorf("-o %s: exit code %d", format, code)
		}
		if format == "json" && !json.Valid(stdout.Bytes()) || !strings.Contains(stdout.String(), "steps") {
			t.Errorf("-o %s: %s", format, &stdout)
		}
	}
}

// startCluster starts an API server with podid's kinds and returns a kubeconfig.
func startCluster(t *testing.T) (string, client.Client) {
	t.Helper()
	env := testenv.Start(t, testenv.WithCRDs)
	return testenv.Kubeconfig(t, env), testenv.Client(t, env.Config, scheme.AddToScheme, v1.AddToScheme)
}
