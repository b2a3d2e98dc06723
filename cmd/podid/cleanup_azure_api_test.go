package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/testenv"
)

const emulatedID = "/subscriptions/22222222-2222-4222-8222-222222222222/resourceGroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"

// TestCleanupAzure covers the whole way from a cloud config to the identities of a VM.
func TestCleanupAzure(t *testing.T) {
	testenv.Require(t)
	kubeconfig, c := startCluster(t)
	dir, control := startEmulator(t)
	demo, other, foreign := emulatedID+"demo-identity", emulatedID+"other-identity", emulatedID+"vm-identity"
	call(t, http.MethodPut, control+"/v1/virtualMachines", fmt.Sprintf(
		`{"name": "vm-0", "resourceGroup": "demo", "addresses": ["10.0.0.4"], "identities": [%q, %q, %q]}`, foreign, demo, other))
	ledger := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "ledger", Labels: map[string]string{"app.kubernetes.io/managed-by": "podid-mic"}},
		Data: map[string]string{
			"group":      `{"kind":"vm","subscriptionID":"22222222-2222-4222-8222-222222222222","resourceGroup":"demo","name":"vm-0"}`,
			"identities": fmt.Sprintf(`[{"resourceID":%q},{"resourceID":%q}]`, demo, other),
		},
	}
	testenv.Create(t, c, ledger)

	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A separate process, because trusted certificates are read once per process.
	command := exec.CommandContext(t.Context(), program)
	command.Args = []string{"podid", "cleanup", "--kubeconfig", kubeconfig, "--cloudconfig", filepath.Join(dir, "azure.json"), "--yes"}
	command.Env = append(os.Environ(),
		"SSL_CERT_FILE="+filepath.Join(dir, "ca.crt"), "AZURE_ENVIRONMENT_FILEPATH="+filepath.Join(dir, "azurestackcloud.json"))
	out, err := command.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "detached "+demo+" from vm/demo/vm-0") {
		t.Fatalf("%v\n%s", err, out)
	}
	if machines := call(t, http.MethodGet, control+"/v1/machines?name=vm-0", ""); !strings.Contains(machines, "vm-identity") ||
		strings.Contains(machines, "demo-identity") || strings.Contains(machines, "other-identity") {
		t.Errorf("the VM has %s", machines)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(ledger), ledger); !apierrors.IsNotFound(err) {
		t.Errorf("the ledger is left: %v", err)
	}
}

// startEmulator runs an emulated Azure until the test ends. It returns the folder of its files and
// the URL of its control API.
func startEmulator(t *testing.T) (dir, control string) {
	t.Helper()
	ctx, interrupt := context.WithCancel(context.Background())
	dir = t.TempDir()
	printed, stdout := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{
			"emulator", "--dir", dir, "--arm-address", "127.0.0.1:0", "--entra-address", "127.0.0.1:0",
			"--imds-address", "127.0.0.1:0", "--control-address", "127.0.0.1:0", "--update-duration", "0s",
		}, stdout, io.Discard)
		_ = stdout.Close()
	}()
	t.Cleanup(func() {
		interrupt()
		<-ended
	})
	control = ready(t, printed)
	go func() { _, _ = io.Copy(io.Discard, printed) }()
	return dir, control
}

func call(t *testing.T, method, url, body string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode >= http.StatusBadRequest {
		t.Fatalf("%s %s: %s %s %v", method, url, answer.Status, text, err)
	}
	return string(text)
}
