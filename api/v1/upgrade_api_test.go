package v1_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
)

// oldCRDs is the schema of v1.8.17: podid's without rules, limits, defaults and new fields.
func oldCRDs(t *testing.T) []*apiextensions.CustomResourceDefinition {
	t.Helper()
	crds := readCRDs(t)
	for _, crd := range crds {
		for i := range crd.Spec.Versions {
			strip(crd.Spec.Versions[i].Schema.OpenAPIV3Schema)
			crd.Spec.Versions[i].Subresources = nil
		}
		crd.Spec.Names.Categories = nil
	}
	return crds
}

func strip(s *apiextensions.JSONSchemaProps) {
	s.XValidations, s.Default = nil, nil
	s.MaxLength, s.Minimum, s.Maximum, s.MaxItems, s.MaxProperties = nil, nil, nil, nil, nil
	for _, added := range []string{
		"objectID", "reason", "message", "conditions",
		"Type", "resourceid", "ResourceID", "clientid", "ClientID", "clientpassword", "ClientPassword", "tenantid", "TenantID",
		"auxiliarytenantids", "AuxiliaryTenantIDs", "adresourceid", "ADResourceID", "adendpoint", "ADEndpoint",
		"azureidentity", "AzureIdentity", "Selector", "Weight", "azureidentityref", "azurebindingref", "podnamespace",
	} {
		delete(s.Properties, added)
	}
	if s.Items != nil && s.Items.Schema != nil {
		strip(s.Items.Schema)
	}
	for name, property := range s.Properties {
		strip(&property)
		s.Properties[name] = property
	}
}

// Objects as they are found in clusters: made by kubectl, written back by Go
// clients of v1.8.17, which write every zero value.
const (
	oldIdentity = `{
 "kind": "AzureIdentity", "metadata": {"name": "old", "annotations": {"aadpodidentity.k8s.io/Behavior": "namespaced"}},
 "spec": {"metadata": {"creationTimestamp": null}, "type": 0, "resourceID": %q, "clientID": "c0ffee00-5f0c-4a0c-9a5e-1c9d4d7a7f02",
  "clientPassword": {}, "tenantID": "", "auxiliaryTenantIDs": null, "adResourceID": "", "adEndpoint": "", "replicas": null},
 "status": {"metadata": {"creationTimestamp": null}, "availableReplicas": 0}}`

	oldBinding = `{
 "kind": "AzureIdentityBinding", "metadata": {"name": "old"},
 "spec": {"metadata": {"creationTimestamp": null}, "azureIdentity": "old", "selector": "demo", "weight": 0},
 "status": {"metadata": {"creationTimestamp": null}, "availableReplicas": 0}}`

	oldException = `{
 "kind": "AzurePodIdentityException", "metadata": {"name": "old"},
 "spec": {"metadata": {"creationTimestamp": null}, "podLabels": {"app": "mic", "component": "mic"}},
 "status": {"metadata": {"creationTimestamp": null}, "status": ""}}`

	oldAssigned = `{
 "kind": "AzureAssignedIdentity", "metadata": {"name": "old", "labels": {"nodename": "node-1", "podname": "web-0", "podnamespace": "default"},
  "finalizers": ["azureassignedidentity.finalizers.aadpodidentity.k8s.io"]},
 "spec": {"metadata": {"creationTimestamp": null},
  "azureIdentityRef": {"kind": "AzureIdentity", "apiVersion": "aadpodidentity.k8s.io/v1",
   "metadata": {"name": "old", "namespace": "default", "uid": "5f4bd5e0-7f5c-4f53-8f2e-0f7a35d6a0b1", "resourceVersion": "17", "generation": 2,
    "creationTimestamp": "2022-03-04T05:06:07Z", "annotations": {"aadpodidentity.k8s.io/Behavior": "namespaced"}, "labels": {"team": "a"}},
   "spec": {"metadata": {"creationTimestamp": null}, "type": 0, "resourceID": "not-an-id", "clientID": "nor-this", "clientPassword": {},
    "tenantID": "", "auxiliaryTenantIDs": null, "adResourceID": "", "adEndpoint": "", "replicas": null},
   "status": {"metadata": {"creationTimestamp": null}, "availableReplicas": 0}},
  "azureBindingRef": {"kind": "AzureIdentityBinding", "apiVersion": "aadpodidentity.k8s.io/v1",
   "metadata": {"name": "old", "namespace": "default", "creationTimestamp": null},
   "spec": {"metadata": {"creationTimestamp": null}, "azureIdentity": "", "selector": "", "weight": 0},
   "status": {"metadata": {"creationTimestamp": null}, "availableReplicas": 0}},
  "pod": "web-0", "podNamespace": "default", "nodename": "node-1", "replicas": null},
 "status": {"metadata": {"creationTimestamp": null}, "status": "Assigned", "availableReplicas": 1}}`
)

// invalid objects were valid in v1.8.17 and violate podid's rules.
func invalidObjects() map[string]string {
	return map[string]string{
		"AzureIdentity":             `{kind: AzureIdentity, metadata: {name: invalid, finalizers: [example.com/f]}, spec: {type: 9, clientID: x, tenantID: "?", adEndpoint: "http://x"}}`,
		"AzureIdentityBinding":      `{kind: AzureIdentityBinding, metadata: {name: invalid, finalizers: [example.com/f]}, spec: {azureIdentity: A/B, selector: "a=b"}}`,
		"AzurePodIdentityException": `{kind: AzurePodIdentityException, metadata: {name: invalid, finalizers: [example.com/f]}}`,
	}
}

func (s *server) createOldObjects(t *testing.T) {
	t.Helper()
	texts := []string{fmt.Sprintf(oldIdentity, resourceID), oldBinding, oldException, oldAssigned}
	for _, text := range invalidObjects() {
		texts = append(texts, text)
	}
	for _, text := range texts {
		object := parse(t, text)
		if err := s.client.Create(t.Context(), object); err != nil {
			t.Fatalf("create %s %s under the old schema: %v", object.GetKind(), object.GetName(), err)
		}
	}
}

// testOldObjects checks that objects which predate the rules and violate them can still get labels,
// finalizers and a status. Only a change of the spec requires it to be fixed.
func (s *server) testOldObjects(t *testing.T) {
	for kind := range invalidObjects() {
		t.Run(kind, func(t *testing.T) {
			object := s.get(t, kind, "invalid")
			object.SetLabels(map[string]string{"seen": "yes"})
			s.update(t, object)
			object.SetAnnotations(map[string]string{"seen": "yes"})
			s.update(t, object)
			set(t, object, map[string]any{}, "status", "metadata")
			s.update(t, object)

			patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"seen":"again"}}}`))
			if err := s.client.Patch(t.Context(), object, patch); err != nil {
				t.Errorf("patch labels: %v", err)
			}
			touched := object.DeepCopy()
			set(t, touched, "x", "spec", "selector")
			set(t, touched, "x", "spec", "adResourceID")
			if err := s.client.Update(t.Context(), touched); err == nil && kind != "AzurePodIdentityException" {
				t.Error("a changed spec was accepted although it is still wrong")
			}

			if err := s.client.Delete(t.Context(), object); err != nil {
				t.Fatalf("delete: %v", err)
			}
			object = s.get(t, kind, "invalid")
			object.SetFinalizers(nil)
			s.update(t, object)
		})
	}
}

func (s *server) update(t *testing.T, object *unstructured.Unstructured) {
	t.Helper()
	if err := s.client.Update(t.Context(), object); err != nil {
		t.Errorf("update %s: %v", object.GetName(), err)
	}
}

func set(t *testing.T, object *unstructured.Unstructured, value any, fields ...string) {
	t.Helper()
	if err := unstructured.SetNestedField(object.Object, value, fields...); err != nil {
		t.Fatal(err)
	}
}

// testRoundTrip checks that podid's types read what v1.8.17 wrote and write the same back, except
// for zero values, which they omit.
func (s *server) testRoundTrip(t *testing.T) {
	for kind, object := range map[string]client.Object{
		"AzureIdentity":             &v1.AzureIdentity{},
		"AzureIdentityBinding":      &v1.AzureIdentityBinding{},
		"AzurePodIdentityException": &v1.AzurePodIdentityException{},
		"AzureAssignedIdentity":     &v1.AzureAssignedIdentity{},
	} {
		t.Run(kind, func(t *testing.T) {
			before := s.get(t, kind, "old")
			if err := s.client.Get(t.Context(), client.ObjectKeyFromObject(before), object); err != nil {
				t.Fatalf("read: %v", err)
			}
			object.SetLabels(map[string]string{"written": "by-us"})
			if err := s.client.Update(t.Context(), object); err != nil {
				t.Fatalf("write: %v", err)
			}
			after := s.get(t, kind, "old")
			if diff := cmp.Diff(meaning(before), meaning(after)); diff != "" {
				t.Errorf("what a typed client made of it (-before +after):\n%s", diff)
			}
		})
	}
}

// meaning returns spec and status without zero values, which Go clients of both generations treat
// as absent.
func meaning(object *unstructured.Unstructured) map[string]any {
	out, _ := drop(map[string]any{"spec": object.Object["spec"], "status": object.Object["status"]}).(map[string]any)
	return out
}

func drop(value any) any {
	fields, ok := value.(map[string]any)
	if !ok {
		return value
	}
	out := map[string]any{}
	for name, field := range fields {
		switch field := drop(field).(type) {
		case nil:
		case map[string]any:
			if len(field) > 0 {
				out[name] = field
			}
		default:
			if field != "" && field != int64(0) {
				out[name] = field
			}
		}
	}
	return out
}

// testCopies checks that MIC can copy identities that are older than the rules, and that the copy
// is complete.
func (s *server) testCopies(t *testing.T) {
	id := &v1.AzureIdentityCopy{
		APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentity",
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "team", Name: "old", UID: "5f4bd5e0-7f5c-4f53-8f2e-0f7a35d6a0b1", ResourceVersion: "4711",
			Labels: map[string]string{"a": "b"}, Annotations: map[string]string{v1.BehaviorAnnotation: v1.BehaviorNamespaced},
		},
		Spec: v1.AzureIdentitySpec{
			Type: v1.ServicePrincipal, ClientID: "no-guid", TenantID: "?", ADEndpoint: "http://x",
			ClientPassword: v1.SecretReference{Name: "s", Namespace: "n"}, AuxiliaryTenantIDs: []string{"?"},
		},
	}
	b := &v1.AzureIdentityBindingCopy{
		APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentityBinding",
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "old"},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: "A/B", Selector: "a=b", Weight: -3},
	}
	want := &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "copies", Finalizers: []string{v1.Finalizer}},
		Spec: v1.AzureAssignedIdentitySpec{
			AzureIdentityRef: id, AzureBindingRef: b,
			Pod: "p", PodNamespace: "team", NodeName: "n",
		},
		Status: v1.AzureAssignedIdentityStatus{Status: v1.StateCreated, Reason: "IdentityBroken", Message: "do this"},
	}
	got := want.DeepCopy()
	if err := s.client.Create(t.Context(), got); err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := s.client.Get(t.Context(), client.ObjectKeyFromObject(want), got); err != nil {
		t.Fatalf("read: %v", err)
	}
	if diff := cmp.Diff(want.Spec, got.Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Status, got.Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}

	nameless := want.DeepCopy()
	nameless.Name, nameless.Spec.AzureIdentityRef.Kind = "kindless", ""
	err := s.client.Create(t.Context(), nameless, client.DryRunAll)
	checkRefusal(t, err, "spec.azureIdentityRef.kind: Required value")
}

// testHostile checks that users who may write an object cannot create one that a typed client
// cannot read: it would stop the informers of the whole cluster.
func (s *server) testHostile(t *testing.T) {
	for _, value := range []string{"1e20", "9223372036854775808", "3000000000", "-3000000000", "1.5", `"1"`, "{}", "[]", "true", "null"} {
		for _, path := range []string{
			"AzureIdentity spec type", "AzureIdentity spec replicas", "AzureIdentity status availableReplicas",
			"AzureIdentityBinding spec weight", "AzureIdentityBinding status availableReplicas",
			"AzureAssignedIdentity spec replicas", "AzureAssignedIdentity status availableReplicas",
			"AzureAssignedIdentity spec azureIdentityRef spec type", "AzureAssignedIdentity spec azureBindingRef spec weight",
			"AzureAssignedIdentity spec azureIdentityRef status availableReplicas", "AzureIdentity spec clientID",
			"AzureIdentity spec auxiliaryTenantIDs", "AzureIdentity spec clientPassword", "AzurePodIdentityException spec podLabels",
			"AzureAssignedIdentity spec azureIdentityRef metadata generation", "AzureAssignedIdentity spec azureIdentityRef metadata labels",
			"AzureAssignedIdentity spec azureIdentityRef metadata creationTimestamp", "AzureAssignedIdentity spec metadata",
		} {
			t.Run(path+" "+value, func(t *testing.T) {
				words := strings.Fields(path)
				object := hostileBase(t, words[0])
				var v any
				if err := json.Unmarshal([]byte(value), &v); err != nil {
					t.Fatal(err)
				}
				set(t, object, v, words[1:]...)
				object.SetName("hostile")
				if err := s.client.Create(t.Context(), object); err != nil {
					return // refused: just as well
				}
				defer func() { _ = s.client.Delete(t.Context(), object) }()
				if err := s.client.Get(t.Context(), client.ObjectKeyFromObject(object), typed(words[0])); err != nil {
					t.Errorf("accepted, and a typed client cannot read it: %v", err)
				}
			})
		}
	}
}

func hostileBase(t *testing.T, kind string) *unstructured.Unstructured {
	t.Helper()
	texts := map[string]string{
		"AzureIdentity": fmt.Sprintf(oldIdentity, resourceID), "AzureIdentityBinding": oldBinding,
		"AzurePodIdentityException": oldException, "AzureAssignedIdentity": oldAssigned,
	}
	object := parse(t, texts[kind])
	object.SetFinalizers(nil)
	return object
}

func typed(kind string) client.Object {
	switch kind {
	case "AzureIdentity":
		return &v1.AzureIdentity{}
	case "AzureIdentityBinding":
		return &v1.AzureIdentityBinding{}
	case "AzurePodIdentityException":
		return &v1.AzurePodIdentityException{}
	default:
		return &v1.AzureAssignedIdentity{}
	}
}
