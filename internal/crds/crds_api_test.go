package crds

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/testenv"
)

const generated = "../../config/crd"

// Definitions of an older release lack fields, and applying the new ones adds them.
func TestApply(t *testing.T) {
	env := testenv.Start(t)
	c := testenv.Client(t, env.Config)
	definitions, err := Read(generated)
	if err != nil {
		t.Fatal(err)
	}
	discover := discovery.NewDiscoveryClientForConfigOrDie(env.Config)
	missing := func() string {
		have, err := Missing(discover.OpenAPIV3())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(have, " ")
	}
	if have := missing(); have != "" {
		t.Errorf("before the first installation, %s is missing", have)
	}
	if err := Apply(t.Context(), c, older(definitions)); err != nil {
		t.Fatal(err)
	}
	const want = "AzureIdentity.spec.objectID AzureIdentityPolicy"
	testenv.Eventually(t, "the old schema", func() string { return cmp.Diff(want, missing()) })
	if err := Apply(t.Context(), c, definitions); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the new schema", func() string { return missing() })
	for range 2 {
		if err := Delete(t.Context(), c, definitions); err != nil {
			t.Fatal(err)
		}
	}
}

// A definition whose objects have a finalizer is not gone, and is not called deleted.
func TestDeleteStuck(t *testing.T) {
	env := testenv.Start(t)
	c := testenv.Client(t, env.Config)
	definitions, err := Read(generated)
	if err != nil {
		t.Fatal(err)
	}
	const name = "azureassignedidentities.aadpodidentity.k8s.io"
	definitions = slices.DeleteFunc(definitions, func(o *unstructured.Unstructured) bool { return o.GetName() != name })
	if err := Apply(t.Context(), c, definitions); err != nil {
		t.Fatal(err)
	}
	stuck := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "aadpodidentity.k8s.io/v1",
		"kind":       "AzureAssignedIdentity",
		"metadata": map[string]any{
			"name": "old", "namespace": "default",
			"finalizers": []any{"azureassignedidentity.finalizers.aadpodidentity.k8s.io"},
		},
	}}
	testenv.Eventually(t, "an object", func() string {
		if err := c.Create(t.Context(), stuck); err != nil {
			return err.Error()
		}
		return ""
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = Delete(ctx, impatient{c, cancel}, definitions)
	if err == nil || !strings.Contains(err.Error(), "still being deleted: "+name) {
		t.Fatalf("got %v", err)
	}
	free := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
	if err := c.Patch(t.Context(), stuck, free); err != nil {
		t.Fatal(err)
	}
	if err := Delete(t.Context(), c, definitions); err != nil {
		t.Error(err)
	}
}

// impatient is a client that cancels a context once it has read something.
type impatient struct {
	client.Client
	cancel context.CancelFunc
}

func (i impatient) Get(ctx context.Context, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
	defer i.cancel()
	return i.Client.Get(ctx, key, o, options...)
}

// older returns the definitions without a field and without a kind.
func older(definitions []*unstructured.Unstructured) []*unstructured.Unstructured {
	var old []*unstructured.Unstructured
	for _, definition := range definitions {
		definition = definition.DeepCopy()
		kind, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "kind")
		if kind == "AzureIdentityPolicy" {
			continue
		}
		versions, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
		spec := []string{"schema", "openAPIV3Schema", "properties", "spec"}
		version := versions[0].(map[string]any)
		unstructured.RemoveNestedField(version, append(spec, "properties", "objectID")...)
		unstructured.RemoveNestedField(version, append(spec, "x-kubernetes-validations")...) // they refer to it
		_ = unstructured.SetNestedSlice(definition.Object, versions, "spec", "versions")
		old = append(old, definition)
	}
	return old
}

func TestReadWrong(t *testing.T) {
	for name, test := range map[string]struct{ content, want string }{
		"nothing":       {"", "no custom resource definitions"},
		"another kind":  {"kind: Secret", "is no custom resource definition"},
		"another group": {"kind: CustomResourceDefinition\nspec: {group: example.com}", "is no custom resource definition of aadpodidentity.k8s.io"},
		"no YAML":       {"a: [", "parse"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if test.content != "" {
				if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(test.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
