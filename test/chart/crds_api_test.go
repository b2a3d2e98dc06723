package chart

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// oldCRDs: an upgrade beside older CRDs says which are old, until the documented command has run.
func oldCRDs(t *testing.T, api cluster) {
	t.Helper()
	warnings := func() string {
		api.helm(t, "upgrade", "podid", chartDir, "--reset-values")
		for _, daemon := range list(t, api, schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DaemonSet"}) {
			if daemon.GetName() == "podid-nmi" {
				return daemon.GetAnnotations()["podid.io/warnings"]
			}
		}
		return "no DaemonSet"
	}
	if said := warnings(); said != "" {
		t.Errorf("with the chart's own CRDs: %s", said)
	}
	for _, crd := range list(t, api, schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}) {
		switch strings.Split(crd.GetName(), ".")[0] {
		case "azureidentitypolicies":
			if err := api.Delete(t.Context(), &crd); err != nil {
				t.Fatal(err)
			}
		case "azurepodidentityexceptions":
			versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
			_ = unstructured.SetNestedField(versions[0].(map[string]any), "older", "schema", "openAPIV3Schema", "description")
			_ = unstructured.SetNestedSlice(crd.Object, versions, "spec", "versions")
			if err := api.Update(t.Context(), &crd); err != nil {
				t.Fatal(err)
			}
		}
	}
	const want = "azureidentitypolicies.aadpodidentity.k8s.io, azurepodidentityexceptions.aadpodidentity.k8s.io"
	if said := warnings(); !strings.Contains(said, want) || !strings.Contains(said, "helm show crds") {
		t.Errorf("with old CRDs: %q, want %q", said, want)
	}
	out, err := runHelm(t, "show", "crds", chartDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range parse(t, out) {
		if err := api.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(crd), client.FieldOwner("helm"), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
	}
	if said := warnings(); said != "" {
		t.Errorf("after the documented command: %s", said)
	}
}
