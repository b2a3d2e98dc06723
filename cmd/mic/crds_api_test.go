package main

import (
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/crds"
	"github.com/podid-io/podid/internal/daemon"
	"github.com/podid-io/podid/internal/testenv"
)

// A MIC beside older definitions works, and its log at the default level names what is missing. The
// same program brings them up to date, and deletes them.
func TestCRDs(t *testing.T) {
	env, kubeconfig := startAPI(t)
	definitions, err := crds.Read(testenv.CRDs())
	if err != nil {
		t.Fatal(err)
	}
	old := definitions[:0:0]
	for _, definition := range definitions {
		if !strings.HasPrefix(definition.GetName(), "azureidentitypolicies.") {
			old = append(old, definition)
		}
	}
	api := testenv.Client(t, env.Config)
	if err := crds.Apply(t.Context(), api, old); err != nil {
		t.Fatal(err)
	}
	before := start(t, kubeconfig)
	before.logs("the custom resource definitions are older than this MIC")
	before.logs("missing=AzureIdentityPolicy")
	before.end()

	start(t, kubeconfig, "--apply-crds="+testenv.CRDs()).exits(daemon.ExitDone)
	after := start(t, kubeconfig)
	after.logs("leading")
	after.end()
	if strings.Contains(after.log.String(), "older than this MIC") {
		t.Errorf("new definitions are called old:\n%s", after.log)
	}
	start(t, kubeconfig, "--delete-crds="+testenv.CRDs()).exits(daemon.ExitDone)
	start(t, kubeconfig, "--delete-crds=x", "--apply-crds=y").exits(daemon.ExitUsage)
	start(t, kubeconfig, "--apply-crds="+t.TempDir()).fails("no custom resource definitions in")
}
