// The size limits of podid's objects, all of which every agent and every MIC reads.

package chart

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/testenv"
)

// objectLimits requires the chart to be installed.
func objectLimits(t *testing.T, api cluster) {
	finalizers := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprint("x.example/", i))
		}
		return all
	}
	owners := func(n int) (all []metav1.OwnerReference) {
		for i := range n {
			all = append(all, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: types.UID(fmt.Sprint("u-", i)), Controller: new(i == 0)})
		}
		return all
	}
	lastApplied := map[string]string{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 60<<10)}
	all := map[string]attempt{}
	for name, test := range map[string]struct {
		fill    func(*unstructured.Unstructured)
		refused string // part of the message; "" when it is allowed
	}{
		"as usual":            {func(o *unstructured.Unstructured) { o.SetLabels(many(64, "b")); o.SetAnnotations(lastApplied) }, ""},
		"a label too many":    {func(o *unstructured.Unstructured) { o.SetLabels(many(65, "b")) }, "at most 64 labels"},
		"650 kB of labels":    {func(o *unstructured.Unstructured) { o.SetLabels(many(4900, strings.Repeat("b", 63))) }, "at most 64 labels"},
		"a large annotation":  {func(o *unstructured.Unstructured) { o.SetAnnotations(many(1, strings.Repeat("b", 66<<10))) }, "at most 64 KiB"},
		"small annotations":   {func(o *unstructured.Unstructured) { o.SetAnnotations(many(3000, "b")) }, "at most 64 KiB"},
		"too many finalizers": {func(o *unstructured.Unstructured) { o.SetFinalizers(finalizers(17)) }, "at most 16 finalizers"},
		"too many owners":     {func(o *unstructured.Unstructured) { o.SetOwnerReferences(owners(17)) }, "at most 16 owners"},
	} {
		for _, kind := range []string{"AzureIdentity", "AzureIdentityBinding", "AzurePodIdentityException", "AzureAssignedIdentity"} {
			object := podidObject(kind, "small")
			test.fill(object)
			all[name+" "+kind] = attempt{func() error { return api.Create(t.Context(), object.DeepCopy(), client.DryRunAll) }, test.refused}
		}
	}
	api.attempts(t, all)
	// An existing object keeps working, and can only shrink.
	giant := podidObject("AzureIdentity", "giant")
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(giant), giant); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		labels  int
		refused bool
	}{{101, true}, {100, false}, {90, false}, {91, true}} {
		changed := giant.DeepCopy()
		changed.SetLabels(many(step.labels, "b"))
		err := api.Update(t.Context(), changed)
		if apierrors.IsInvalid(err) != step.refused || err != nil && !step.refused {
			t.Errorf("an update to %d labels: %v", step.labels, err)
		}
		if err == nil {
			giant = changed
		}
	}
	if err := api.Delete(t.Context(), giant); err != nil {
		t.Error(err)
	}
}

// giantBefore creates an object that is larger than the limits before they exist.
func giantBefore(t *testing.T, api cluster) {
	t.Helper()
	giant := podidObject("AzureIdentity", "giant")
	giant.SetLabels(many(100, "b"))
	testenv.Create(t, api, giant)
}

// many returns labels or annotations with long names.
func many(n int, value string) map[string]string {
	all := map[string]string{}
	for i := range n {
		all[fmt.Sprintf("x.example/%s-%05d", strings.Repeat("a", 50), i)] = value
	}
	return all
}

func podidObject(kind, name string) *unstructured.Unstructured {
	spec := map[string]any{}
	switch kind {
	case "AzureIdentity":
		spec = map[string]any{
			"type": int64(1), "tenantID": "contoso.com", "clientID": "99999999-9999-9999-9999-999999999999",
			"clientPassword": map[string]any{"name": "s"},
		}
	case "AzureIdentityBinding":
		spec = map[string]any{"azureIdentity": "i", "selector": "s"}
	case "AzurePodIdentityException":
		spec = map[string]any{"podLabels": map[string]any{"a": "b"}}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
		"metadata": map[string]any{"namespace": "default", "name": name}, "spec": spec,
	}}
}
