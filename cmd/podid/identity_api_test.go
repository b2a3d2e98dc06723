package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/federation"
	"github.com/podid-io/podid/internal/testenv"
)

// TestFederate goes from an AzureIdentity to the command line for Azure.
func TestFederate(t *testing.T) {
	const guid = "b9fe2d38-5f0c-4a0c-9a5e-1c9d4d7a7f01"
	kubeconfig, c := startCluster(t)
	for name, spec := range map[string]v1.AzureIdentitySpec{
		"app": {Type: v1.Federated, ClientID: guid, TenantID: guid},
		"msi": {Type: v1.Federated, ClientID: guid, TenantID: guid, ResourceID: "/subscriptions/" + guid + "/resourceGroups/apps/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop"},
		"old": {ResourceID: "/subscriptions/" + guid + "/resourceGroups/apps/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop"},
	} {
		testenv.Create(t, c, &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: spec})
	}
	const at = "--issuer https://oidc.example.com/prod "
	for _, step := range []struct {
		name           string
		args           string
		code           int
		stdout, stderr string // "" is nothing at all for stdout
	}{
		{"no such", at + "gone", 1, "", "error: read AzureIdentity default/gone: azureidentities"},
		{"not federated", at + "old", 1, "", "set spec.type to 3"},
		{"private issuer", "app", 1, "", "is not public, so Entra ID cannot fetch its keys: on AKS: az aks update"},
		{"nothing made", at + "app --dry-run", 0, "az ad app federated-credential create --id " + guid + " --parameters '{", "podid-brokers/default.app does not exist"},
		{"made", at + "app", 0, "az ad app federated-credential create --id " + guid, "serviceaccount/default.app created in namespace podid-brokers\n"},
		{"again", at + "app -n default", 0, `"subject":"system:serviceaccount:podid-brokers:default.app"`, "not as https://oidc.example.com/prod"},
		{"managed identity", at + "msi --cloud AzureChinaCloud --cluster-name prod", 0, "--identity-name shop --resource-group apps --subscription " + guid + " --issuer https://oidc.example.com/prod " +
			"--subject system:serviceaccount:podid-brokers:default.msi --audiences api://AzureADTokenExchangeChina\n", ""},
		{"as data", at + "msi -o yaml", 0, "managedIdentity:\n  name: shop\n", ""},
		{"wrong output", at + "msi -o table", 1, "", "use json or yaml"},
		{"no name", at, 1, "", "accepts 1 arg(s)"},
	} {
		t.Run(step.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append([]string{"identity", "federate", "--kubeconfig", kubeconfig}, strings.Fields(step.args)...)
			if code := run(t.Context(), args, &stdout, &stderr); code != step.code {
				t.Errorf("exit code %d, want %d", code, step.code)
			}
			if !strings.Contains(stdout.String(), step.stdout) || !strings.Contains(stderr.String(), step.stderr) || step.stdout == "" && stdout.Len() > 0 {
				t.Errorf("stdout:\n%s\nstderr:\n%s", &stdout, &stderr)
			}
			if step.name == "nothing made" {
				if err := c.Get(t.Context(), client.ObjectKey{Name: "podid-brokers"}, &corev1.Namespace{}); err == nil {
					t.Error("the namespace was made")
				}
			}
		})
	}
	var account corev1.ServiceAccount
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "podid-brokers", Name: "default.app"}, &account); err != nil {
		t.Fatal(err)
	}
	if account.Labels[federation.ManagedByLabel] != federation.ManagedBy || *account.AutomountServiceAccountToken {
		t.Errorf("the broker is %+v", account)
	}
	var stdout bytes.Buffer
	run(t.Context(), []string{"identity", "federate", "msi", "--kubeconfig", kubeconfig, "--issuer", "https://oidc.example.com/prod", "-o", "json"}, &stdout, &bytes.Buffer{})
	if !json.Valid(stdout.Bytes()) {
		t.Errorf("no JSON: %s", &stdout)
	}
	stdout.Reset()
	run(t.Context(), []string{"__complete", "identity", "federate", "--kubeconfig", kubeconfig, "-n", "default", ""}, &stdout, &bytes.Buffer{})
	if !strings.HasPrefix(stdout.String(), "app\nmsi\n:") {
		t.Errorf("completion: %s", &stdout)
	}
}
