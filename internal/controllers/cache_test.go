package controllers

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
)

// filled returns metadata as large as the API server allows.
func filled(name string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{
		Namespace: "evil", Name: name, UID: "u", ResourceVersion: "7", Generation: 3, CreationTimestamp: metav1.Unix(1, 0),
		Labels: map[string]string{v1.BindingLabel: "app", v1.NodeNameLabel: "n", v1.PodNameLabel: "p", v1.PodNamespaceLabel: "evil"},
		Annotations: map[string]string{
			v1.BehaviorAnnotation: " namespaced ", v1.AllowedNamespacesAnnotation: strings.Repeat("x", 200<<10), "other": strings.Repeat("x", 50<<10),
		},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}
	for i := range 1000 {
		m.Labels[fmt.Sprint("x.example/", i)] = strings.Repeat("b", 63)
		m.Finalizers = append(m.Finalizers, fmt.Sprint("x.example/", i))
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{Name: fmt.Sprint("x-", i)})
	}
	return m
}

// TestSlim: the cache keeps everything that the controllers read, and little else, whatever a
// tenant puts into an object.
func TestSlim(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	spec := v1.AzureIdentitySpec{Type: 1, ClientID: "c", AzureIdentityOldSpelling: v1.AzureIdentityOldSpelling{OldResourceID: long}}
	bindingSpec := v1.AzureIdentityBindingSpec{AzureIdentity: "i", Selector: "app", AzureIdentityBindingOldSpelling: v1.AzureIdentityBindingOldSpelling{OldSelector: long}}
	namespaced := map[string]string{v1.BehaviorAnnotation: "namespaced"}
	kept := metav1.ObjectMeta{Namespace: "evil", Name: "o", UID: "u", ResourceVersion: "7"}
	dated := kept
	dated.CreationTimestamp = metav1.Unix(1, 0)
	generated := dated
	generated.Generation = 3
	copied := metav1.ObjectMeta{Namespace: "evil", Name: "i", UID: "u", Generation: 3, Annotations: namespaced}

	pod := &corev1.Pod{ObjectMeta: filled("o"), Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Env: []corev1.EnvVar{{Value: long}}}}}}
	slimPodWant := &corev1.Pod{ObjectMeta: kept, Spec: corev1.PodSpec{NodeName: "n"}}
	slimPodWant.Labels = map[string]string{v1.BindingLabel: "app"}
	identity := &v1.AzureIdentity{ObjectMeta: filled("o"), Spec: spec}
	identityWant := &v1.AzureIdentity{ObjectMeta: generated, Spec: v1.AzureIdentitySpec{Type: 1, ClientID: "c"}}
	identityWant.Annotations, identityWant.Labels = namespaced, fingerprint(identity.ObjectMeta)
	assigned := &v1.AzureAssignedIdentity{
		ObjectMeta: filled("o"),
		Spec: v1.AzureAssignedIdentitySpec{
			Pod:                              "p",
			AzureIdentityRef:                 &v1.AzureIdentityCopy{ObjectMeta: filled("i"), Spec: spec},
			AzureBindingRef:                  &v1.AzureIdentityBindingCopy{ObjectMeta: filled("i"), Spec: bindingSpec},
			AzureAssignedIdentityOldSpelling: v1.AzureAssignedIdentityOldSpelling{OldAzureBindingRef: &runtime.RawExtension{Raw: []byte(`"` + long + `"`)}},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: "Created", Conditions: []metav1.Condition{{Type: "Other", Message: long}, {Type: v1.ConditionAssigned}}},
	}
	assignedWant := &v1.AzureAssignedIdentity{
		ObjectMeta: dated,
		Spec: v1.AzureAssignedIdentitySpec{
			Pod:              "p",
			AzureIdentityRef: &v1.AzureIdentityCopy{ObjectMeta: copied, Spec: v1.AzureIdentitySpec{Type: 1, ClientID: "c"}},
			AzureBindingRef:  &v1.AzureIdentityBindingCopy{ObjectMeta: copied, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "i", Selector: "app"}},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: "Created", Conditions: []metav1.Condition{{Type: v1.ConditionAssigned}}},
	}
	assignedWant.Labels = map[string]string{v1.NodeNameLabel: "n", v1.PodNameLabel: "p", v1.PodNamespaceLabel: "evil"}

	options, err := CacheOptions()
	if err != nil {
		t.Fatal(err)
	}
	slim := map[string]toolscache.TransformFunc{}
	for object, by := range options.ByObject {
		slim[fmt.Sprintf("%T", object)] = by.Transform
	}
	for _, c := range []struct{ object, want client.Object }{
		{pod, slimPodWant},
		{&corev1.Node{ObjectMeta: filled("o"), Spec: corev1.NodeSpec{ProviderID: "p"}}, &corev1.Node{ObjectMeta: kept, Spec: corev1.NodeSpec{ProviderID: "p"}}},
		{identity, identityWant},
		{
			&v1.AzureIdentityBinding{ObjectMeta: filled("o"), Spec: bindingSpec},
			&v1.AzureIdentityBinding{ObjectMeta: generated, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "i", Selector: "app"}},
		},
		{assigned, assignedWant},
	} {
		name := fmt.Sprintf("%T", c.object)
		t.Run(name, func(t *testing.T) {
			got, err := slim[name](c.object)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if again, err := slim[name](got); err != nil || cmp.Diff(got, again) != "" {
				t.Errorf("an object is stripped twice, as the list and the informer do (error %v):\n%s", err, cmp.Diff(got, again))
			}
			if text, err := json.Marshal(got); err != nil || len(text) > 4<<10 {
				t.Errorf("%d bytes are left, error %v", len(text), err)
			}
		})
	}
}

// TestFingerprint: every change of labels or annotations is detected, although they are not kept.
func TestFingerprint(t *testing.T) {
	meta := func(labels, annotations map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Labels: labels, Annotations: annotations}
	}
	seen := map[string]metav1.ObjectMeta{}
	for _, m := range []metav1.ObjectMeta{
		meta(nil, nil), meta(map[string]string{"a": "b"}, nil), meta(nil, map[string]string{"a": "b"}),
		meta(map[string]string{"a": "c"}, nil), meta(map[string]string{"a": "b", "c": "d"}, nil), meta(map[string]string{"a": "b"}, map[string]string{"a": "b"}),
	} {
		key := fmt.Sprint(fingerprint(m))
		if other, ok := seen[key]; ok {
			t.Errorf("%v and %v have the same fingerprint", m, other)
		}
		seen[key] = m
	}
}

// TestStreams: each cached kind is listed as a stream, under the API server's resource name.
func TestStreams(t *testing.T) {
	options, err := CacheOptions()
	if err != nil {
		t.Fatal(err)
	}
	streams, err := NewStreams(&rest.Config{Host: "http://127.0.0.1:1"}, options)
	if err != nil {
		t.Fatal(err)
	}
	var resources []string
	for _, object := range Cached() {
		inner := &toolscache.ListWatch{}
		if streams.Of(object, inner) == toolscache.ListerWatcher(inner) {
			t.Errorf("%T is not streamed", object)
		}
		resources = append(resources, streams.kinds[reflect.TypeOf(object)].Resource)
	}
	want := []string{"pods", "nodes", "azureidentities", "azureidentitybindings", "azureassignedidentities"}
	if diff := cmp.Diff(want, resources); diff != "" {
		t.Error(diff)
	}
}
