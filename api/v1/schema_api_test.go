package v1_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/testenv"
)

// TestSchema upgrades a cluster that ran v1.8.17: first its schema and its objects, then podid's
// schema on top, then every rule.
func TestSchema(t *testing.T) {
	s := startServer(t)
	s.install(t, oldCRDs(t))
	s.createOldObjects(t)
	s.install(t, readCRDs(t))
	s.waitForRules(t)

	t.Run("rules", s.testRules)
	t.Run("resource ids", s.testResourceIDs)
	t.Run("old objects", s.testOldObjects)
	t.Run("round trip", s.testRoundTrip)
	t.Run("copies", s.testCopies)
	t.Run("hostile", s.testHostile)
	t.Run("columns", s.testColumns)
	t.Run("policy", s.testPolicy)
}

// server is a real API server and clients to it.
type server struct {
	config *rest.Config
	client client.Client
}

func startServer(t *testing.T) *server {
	t.Helper()
	config := testenv.Start(t).Config
	return &server{config: config, client: testenv.Client(t, config, scheme.AddToScheme, apiextensions.AddToScheme, v1.AddToScheme)}
}

func (s *server) install(t *testing.T, crds []*apiextensions.CustomResourceDefinition) {
	t.Helper()
	if _, err := envtest.InstallCRDs(s.config, envtest.CRDInstallOptions{CRDs: crds}); err != nil {
		t.Fatalf("install the CRDs: %v", err)
	}
}

// waitForRules returns when the server applies podid's schema, which takes a moment after the
// update of a CRD.
func (s *server) waitForRules(t *testing.T) {
	t.Helper()
	invalid := []string{
		"kind: AzureIdentity", "kind: AzureIdentityBinding", "kind: AzurePodIdentityException",
		"{kind: AzureAssignedIdentity, status: {reason: 7}}",
	}
	testenv.Eventually(t, "the new schema", func() string {
		for _, text := range invalid {
			if s.tryCreate(t.Context(), parse(t, text)) == nil {
				return "it allows " + text
			}
		}
		return ""
	})
}

// tryCreate creates the object with a dry run. Name and namespace are filled in.
func (s *server) tryCreate(ctx context.Context, object *unstructured.Unstructured) error {
	return s.client.Create(ctx, complete(object), client.DryRunAll)
}

func complete(object *unstructured.Unstructured) *unstructured.Unstructured {
	object.SetAPIVersion(v1.GroupVersion.String())
	if object.GetName() == "" {
		object.SetName("tried")
	}
	if object.GetNamespace() == "" {
		object.SetNamespace(corev1.NamespaceDefault)
	}
	return object
}

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	return complete(object)
}

// get returns the object as the server has it.
func (s *server) get(t *testing.T, kind, name string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(v1.GroupVersion.WithKind(kind))
	if err := s.client.Get(t.Context(), client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: name}, object); err != nil {
		t.Fatalf("get %s %s: %v", kind, name, err)
	}
	return object
}

func readCRDs(t *testing.T) []*apiextensions.CustomResourceDefinition {
	t.Helper()
	options := &envtest.CRDInstallOptions{Paths: []string{"../../config/crd"}, ErrorIfPathMissing: true}
	if err := envtest.ReadCRDFiles(options); err != nil {
		t.Fatalf("read config/crd: %v", err)
	}
	return options.CRDs
}
