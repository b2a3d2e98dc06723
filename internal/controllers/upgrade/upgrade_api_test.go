package upgrade

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const armID = "/subscriptions/11111111-2222-3333-4444-555555555555/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"

// oldObjects returns objects as in clusters before v1.6: some written by users as documented,
// others by the Go clients.
func oldObjects() []string {
	return []string{
		`{kind: AzureIdentity, metadata: {name: by-hand}, spec: {type: 0, ResourceID: ` + armID + `a, ClientID: 11111111-2222-3333-4444-555555555555}}`,
		`{kind: AzureIdentity, metadata: {name: by-client}, spec: {metadata: {creationTimestamp: null}, type: 1, resourceid: "",
		  clientid: 11111111-2222-3333-4444-555555555555, clientpassword: {name: s, namespace: default},
		  tenantid: 11111111-2222-3333-4444-555555555556, adresourceid: "", adendpoint: "", replicas: null}, status: {availableReplicas: 0}}`,
		`{kind: AzureIdentity, metadata: {name: nested}, spec: {type: 1, ClientID: 11111111-2222-3333-4444-555555555555,
		  ClientPassword: {Name: s, Namespace: default}, TenantID: 11111111-2222-3333-4444-555555555556}}`,
		`{kind: AzureIdentity, metadata: {name: only-nested}, spec: {type: 1, clientID: 11111111-2222-3333-4444-555555555555,
		  clientPassword: {Name: s, Namespace: default}, tenantID: 11111111-2222-3333-4444-555555555556}}`,
		`{kind: AzureIdentity, metadata: {name: twice}, spec: {type: 1, clientID: 11111111-2222-3333-4444-555555555555, clientPassword: {name: "", namespace: ""},
		  clientpassword: {Name: s, namespace: default}, tenantID: 11111111-2222-3333-4444-555555555556}}`,
		`{kind: AzureIdentityBinding, metadata: {name: by-hand}, spec: {AzureIdentity: by-hand, Selector: demo}}`,
		`{kind: AzureIdentityBinding, metadata: {name: by-client}, spec: {azureidentity: by-client, selector: demo, weight: 4}}`,
		`{kind: AzurePodIdentityException, metadata: {name: today}, spec: {podLabels: {app: x}}}`,
		`{kind: AzureAssignedIdentity, metadata: {name: p-default-by-hand, finalizers: [azureassignedidentity.finalizers.aadpodidentity.k8s.io]}, spec: {
		  azureidentityref: {metadata: {name: by-hand, namespace: default}, spec: {type: 0, resourceid: ` + armID + `a}},
		  azurebindingref: {metadata: {name: by-hand, namespace: default}, spec: {azureidentity: by-hand, selector: demo}},
		  pod: p, podnamespace: default, nodename: node-1}, status: {status: Assigned}}`,
		`{kind: AzureAssignedIdentity, metadata: {name: p-default-nested}, spec: {
		  azureIdentityRef: {kind: AzureIdentity, apiVersion: aadpodidentity.k8s.io/v1, metadata: {name: nested, namespace: default},
		  spec: {type: 1, ClientPassword: {Name: s, Namespace: default}}}, pod: p, podNamespace: default, nodename: node-1}}`,
	}
}

// TestUpgrade covers a cluster whose CRDs are older than apiextensions v1.
func TestUpgrade(t *testing.T) {
	s := startServer(t)
	s.bornLax(t)
	for _, text := range oldObjects() {
		s.create(t, text)
	}
	s.applyCRDs(t)
	u := NewController(s.client, s.client, Settings{
		Enabled: true, Namespace: "default", ConfigMap: "aad-pod-identity-config", Key: "type-upgrade-status", Version: "podid-test",
	})

	// Old objects can be labeled, and lose nothing by it.
	labelled := s.get(t, "AzureIdentity", "by-hand")
	labelled.SetLabels(map[string]string{"seen": "yes"})
	if err := s.client.Update(t.Context(), labelled); err != nil {
		t.Fatalf("label an object with old names: %v", err)
	}

	const upgraded = 9 // all except the exception
	if n, err := u.Run(t.Context()); err != nil || n != upgraded {
		t.Fatalf("upgraded %d objects, want %d: %v", n, upgraded, err)
	}
	for _, want := range []string{
		`{kind: AzureIdentity, metadata: {name: by-hand}, spec: {type: 0, resourceID: ` + armID + `a, clientID: 11111111-2222-3333-4444-555555555555}}`,
		`{kind: AzureIdentity, metadata: {name: by-client}, spec: {metadata: {}, type: 1, resourceID: "",
		  clientID: 11111111-2222-3333-4444-555555555555, clientPassword: {name: s, namespace: default},
		  tenantID: 11111111-2222-3333-4444-555555555556, adResourceID: "", adEndpoint: "", replicas: null}}`,
		`{kind: AzureIdentity, metadata: {name: nested}, spec: {type: 1, clientID: 11111111-2222-3333-4444-555555555555, clientPassword: {name: s, namespace: default},
		  tenantID: 11111111-2222-3333-4444-555555555556}}`,
		`{kind: AzureIdentity, metadata: {name: only-nested}, spec: {type: 1, clientID: 11111111-2222-3333-4444-555555555555, clientPassword: {name: s, namespace: default},
		  tenantID: 11111111-2222-3333-4444-555555555556}}`,
		`{kind: AzureIdentity, metadata: {name: twice}, spec: {type: 1, clientID: 11111111-2222-3333-4444-555555555555, clientPassword: {name: s, namespace: default},
		  tenantID: 11111111-2222-3333-4444-555555555556}}`,
		`{kind: AzureAssignedIdentity, metadata: {name: p-default-nested}, spec: {
		  azureIdentityRef: {kind: AzureIdentity, apiVersion: aadpodidentity.k8s.io/v1, metadata: {name: nested, namespace: default},
		  spec: {type: 1, clientPassword: {name: s, namespace: default}}}, pod: p, podNamespace: default, nodename: node-1}}`,
		`{kind: AzureIdentityBinding, metadata: {name: by-hand}, spec: {azureIdentity: by-hand, selector: demo, weight: 0}}`,
		`{kind: AzureIdentityBinding, metadata: {name: by-client}, spec: {azureIdentity: by-client, selector: demo, weight: 4}}`,
		`{kind: AzurePodIdentityException, metadata: {name: today}, spec: {podLabels: {app: x}}}`,
		`{kind: AzureAssignedIdentity, metadata: {name: p-default-by-hand}, spec: {
		  azureIdentityRef: {kind: AzureIdentity, apiVersion: aadpodidentity.k8s.io/v1, metadata: {name: by-hand, namespace: default}, spec: {type: 0, resourceID: ` + armID + `a}},
		  azureBindingRef: {kind: AzureIdentityBinding, apiVersion: aadpodidentity.k8s.io/v1, metadata: {name: by-hand, namespace: default}, spec: {azureIdentity: by-hand, selector: demo, weight: 0}},
		  pod: p, podNamespace: default, nodename: node-1}}`,
	} {
		object := parse(t, want)
		got := s.get(t, object["kind"].(string), object["metadata"].(map[string]any)["name"].(string))
		wanted := &unstructured.Unstructured{Object: object} // numbers as the API server returns them
		if diff := cmp.Diff(normal(t, wanted.Object["spec"]), normal(t, got.Object["spec"])); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", got.GetKind(), got.GetName(), diff)
		}
	}
	if got := s.recorded(t); got != "podid-test" {
		t.Errorf("the ConfigMap records %q", got)
	}

	// Once recorded, no objects are listed.
	u.live = configMapsOnly{s.client}
	if n, err := u.Run(t.Context()); err != nil || n != 0 {
		t.Errorf("the second run upgraded %d: %v", n, err)
	}
}

// TestUpgradeFirst: with CRDs that have not been replaced yet, any spelling is found.
func TestUpgradeFirst(t *testing.T) {
	s := startServer(t)
	s.bornLax(t)
	s.create(t, `{kind: AzureIdentity, metadata: {name: odd}, spec: {resourceId: `+armID+`a, CLIENTID: x}}`)
	u := NewController(s.client, s.client, Settings{Enabled: true, Namespace: "default", ConfigMap: "c", Key: "k"})
	if n, err := u.Run(t.Context()); err != nil || n != 1 {
		t.Fatalf("upgraded %d: %v", n, err)
	}
	spec, _ := s.get(t, "AzureIdentity", "odd").Object["spec"].(map[string]any)
	if spec["resourceID"] != armID+"a" || spec["clientID"] != "x" {
		t.Errorf("spec %v", spec)
	}
}

// TestRefused: a rejected object does not block the others, and is tried again.
func TestRefused(t *testing.T) {
	s := startServer(t)
	s.bornLax(t)
	s.create(t, `{kind: AzureIdentity, metadata: {name: bad}, spec: {type: 0, ResourceID: nothing}}`)
	s.create(t, `{kind: AzureIdentity, metadata: {name: good}, spec: {type: 0, ResourceID: `+armID+`a}}`)
	s.applyCRDs(t)
	u := NewController(s.client, s.client, Settings{Enabled: true, Namespace: "default", ConfigMap: "c", Key: "k"})
	n, err := u.Run(t.Context())
	if n != 1 || err == nil || !strings.Contains(err.Error(), "AzureIdentity default/bad") || !strings.Contains(err.Error(), "must look like") {
		t.Fatalf("upgraded %d: %v", n, err)
	}
	if spec, _ := s.get(t, "AzureIdentity", "bad").Object["spec"].(map[string]any); spec["ResourceID"] != "nothing" {
		t.Errorf("the refused object lost its field: %v", spec)
	}
	bad := s.get(t, "AzureIdentity", "bad")
	bad.Object["spec"] = map[string]any{"type": int64(0), "resourceID": armID + "b"}
	if err := s.client.Update(t.Context(), bad); err != nil {
		t.Fatalf("fix it: %v", err)
	}
	if _, err := u.Run(t.Context()); err != nil {
		t.Errorf("after it was mended: %v", err)
	}
	// New objects must use the current names.
	for _, text := range []string{
		`{kind: AzureIdentity, metadata: {name: new}, spec: {type: 0, resourceID: ` + armID + `a, ClientID: x}}`,
		`{kind: AzureIdentity, metadata: {name: new}, spec: {type: 0, resourceID: ` + armID + `a, clientPassword: {name: s, Name: s}}}`,
		`{kind: AzureIdentityBinding, metadata: {name: new}, spec: {azureIdentity: a, selector: s, Selector: t}}`,
	} {
		if err := s.client.Create(t.Context(), object(t, text)); err == nil || !strings.Contains(err.Error(), "spelled as before v1.6") {
			t.Errorf("create with an old name: %v", err)
		}
	}
}

// configMapsOnly is a reader that fails every list request.
type configMapsOnly struct{ client.Reader }

// List implements client.Reader.
func (configMapsOnly) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return http.ErrAbortHandler
}
