package upgrade

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/testenv"
)

// server is a real API server with its etcd and a client.
type server struct {
	client client.Client
	config *rest.Config
	etcd   string
}

func startServer(t *testing.T) *server {
	t.Helper()
	env := testenv.Start(t)
	c := testenv.Client(t, env.Config, scheme.AddToScheme, apiextensions.AddToScheme)
	return &server{client: c, config: env.Config, etcd: env.ControlPlane.Etcd.URL.String()}
}

// bornLax gives podid's CRDs the form of CRDs that were created with apiextensions v1beta1 and no
// schema. Current API servers reject such a CRD on creation, but still serve one from their store.
func (s *server) bornLax(t *testing.T) {
	t.Helper()
	for _, text := range s.crds(t) {
		crd := &apiextensions.CustomResourceDefinition{}
		if err := yaml.Unmarshal(text, crd); err != nil {
			t.Fatal(err)
		}
		version := &crd.Spec.Versions[0]
		version.Schema.OpenAPIV3Schema = &apiextensions.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)}
		version.Subresources = nil
		if _, err := envtest.InstallCRDs(s.config, envtest.CRDInstallOptions{CRDs: []*apiextensions.CustomResourceDefinition{crd}}); err != nil {
			t.Fatalf("install the old CRDs: %v", err)
		}
		key := "/registry/apiextensions.k8s.io/customresourcedefinitions/" + crd.Name
		stored := s.load(t, key)
		if err := unstructured.SetNestedField(stored, true, "spec", "preserveUnknownFields"); err != nil {
			t.Fatal(err)
		}
		s.store(t, key, stored)
		testenv.Eventually(t, "the CRD keeps unknown fields", func() string {
			got := &apiextensions.CustomResourceDefinition{}
			if err := s.client.Get(t.Context(), client.ObjectKeyFromObject(crd), got); err != nil || !got.Spec.PreserveUnknownFields {
				return fmt.Sprintf("not yet (%v)", err)
			}
			return ""
		})
	}
}

func (s *server) crds(t *testing.T) [][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "config", "crd", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no CRDs: %v", err)
	}
	var texts [][]byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	return texts
}

// applyCRDs follows docs/migrate.md: kubectl apply --server-side.
func (s *server) applyCRDs(t *testing.T) {
	t.Helper()
	for _, text := range s.crds(t) {
		crd := &unstructured.Unstructured{Object: parse(t, string(text))}
		err := s.client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(crd), client.FieldOwner("kubectl"), client.ForceOwnership)
		if err != nil {
			t.Fatalf("apply %s: %v", crd.GetName(), err)
		}
	}
	testenv.Eventually(t, "the new schema holds", func() string {
		for _, text := range []string{
			`{kind: AzureIdentity, metadata: {name: probe}}`, `{kind: AzureIdentityBinding, metadata: {name: probe}}`,
			`{kind: AzurePodIdentityException, metadata: {name: probe}}`, `{kind: AzureAssignedIdentity, metadata: {name: probe}, status: {reason: 7}}`,
		} {
			if s.client.Create(t.Context(), object(t, text), client.DryRunAll) == nil {
				return "it allows " + text
			}
		}
		return ""
	})
}

func (s *server) create(t *testing.T, text string) {
	t.Helper()
	o := object(t, text)
	if err := s.client.Create(t.Context(), o); err != nil {
		t.Fatalf("create %s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

func (s *server) get(t *testing.T, kind, name string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(v1.GroupVersion.WithKind(kind))
	if err := s.client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, o); err != nil {
		t.Fatal(err)
	}
	return o
}

func (s *server) recorded(t *testing.T) string {
	t.Helper()
	var cm corev1.ConfigMap
	if err := s.client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "aad-pod-identity-config"}, &cm); err != nil {
		t.Fatal(err)
	}
	return cm.Data["type-upgrade-status"]
}

// load and store use etcd's JSON gateway.
func (s *server) load(t *testing.T, key string) map[string]any {
	t.Helper()
	var found struct{ Kvs []struct{ Value []byte } }
	s.etcdCall(t, "range", map[string]any{"key": []byte(key)}, &found)
	if len(found.Kvs) != 1 {
		t.Fatalf("etcd has no %s", key)
	}
	return parse(t, string(found.Kvs[0].Value))
}

func (s *server) store(t *testing.T, key string, value map[string]any) {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	s.etcdCall(t, "put", map[string]any{"key": []byte(key), "value": base64.StdEncoding.EncodeToString(text)}, &struct{}{})
}

func (s *server) etcdCall(t *testing.T, verb string, in, out any) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.Post(s.etcd+"/v3/kv/"+verb, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if err := json.NewDecoder(answer.Body).Decode(out); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("etcd %s: %s %v", verb, answer.Status, err)
	}
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{Object: parse(t, text)}
	o.SetAPIVersion(v1.GroupVersion.String())
	o.SetNamespace(corev1.NamespaceDefault)
	return o
}

// normal converts all numbers to the same type.
func normal(t *testing.T, value any) any {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
