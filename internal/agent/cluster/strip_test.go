package cluster

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

// TestStrip: little of what a tenant can put into an object stays in the memory of each agent, but
// all that an agent reads does.
func TestStrip(t *testing.T) {
	long := strings.Repeat("ä", 50<<10)
	filled := metav1.ObjectMeta{
		Namespace: "evil", Name: "o", UID: "u", CreationTimestamp: metav1.Unix(1, 0), Labels: map[string]string{},
		Annotations: map[string]string{v1.BehaviorAnnotation: "namespaced", v1.AllowedNamespacesAnnotation: long, "other": long},
		Finalizers:  []string{long}, OwnerReferences: []metav1.OwnerReference{{Name: long}},
	}
	for i := range 4900 {
		filled.Labels[fmt.Sprint("x.example/", i)] = strings.Repeat("b", 63)
	}
	meta := metav1.ObjectMeta{
		Namespace: "evil", Name: "o", UID: "u", CreationTimestamp: metav1.Unix(1, 0),
		Annotations: map[string]string{v1.BehaviorAnnotation: "namespaced"},
	}
	id := &v1.AzureIdentity{
		TypeMeta: metav1.TypeMeta{Kind: "AzureIdentity"}, ObjectMeta: *filled.DeepCopy(),
		Spec:   v1.AzureIdentitySpec{ClientID: "c", AzureIdentityOldSpelling: v1.AzureIdentityOldSpelling{OldClientID: long}},
		Status: v1.AzureIdentityStatus{Conditions: []metav1.Condition{{Message: long}}},
	}
	binding := &v1.AzureIdentityBinding{
		ObjectMeta: *filled.DeepCopy(),
		Spec:       v1.AzureIdentityBindingSpec{Selector: "s", AzureIdentityBindingOldSpelling: v1.AzureIdentityBindingOldSpelling{OldSelector: long}},
	}
	exception := &v1.AzurePodIdentityException{
		ObjectMeta: *filled.DeepCopy(),
		Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"a": "b", "long": long, long: "b"}},
		Status:     v1.AzurePodIdentityExceptionStatus{Status: long},
	}
	assigned := &v1.AzureAssignedIdentity{
		ObjectMeta: *filled.DeepCopy(),
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: "p", AzureBindingRef: &v1.AzureIdentityBindingCopy{ObjectMeta: filled},
			AzureIdentityRef: &v1.AzureIdentityCopy{ObjectMeta: filled, Spec: v1.AzureIdentitySpec{Type: v1.ServicePrincipal, ResourceID: "r", TenantID: long}},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: "Created", Message: "x" + long, Conditions: []metav1.Condition{{Message: long}}},
	}
	stripIdentity(id)
	stripBinding(binding)
	stripException(exception)
	stripAssigned(assigned)
	for _, c := range []struct{ got, want any }{
		{id, &v1.AzureIdentity{ObjectMeta: meta, Spec: v1.AzureIdentitySpec{ClientID: "c"}}},
		{binding, &v1.AzureIdentityBinding{ObjectMeta: meta, Spec: v1.AzureIdentityBindingSpec{Selector: "s"}}},
		{exception, &v1.AzurePodIdentityException{ObjectMeta: meta, Spec: v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"a": "b"}}}},
		{assigned, &v1.AzureAssignedIdentity{
			ObjectMeta: meta,
			Spec: v1.AzureAssignedIdentitySpec{Pod: "p", AzureIdentityRef: &v1.AzureIdentityCopy{
				ObjectMeta: metav1.ObjectMeta{Namespace: "evil", Name: "o"}, Spec: v1.AzureIdentitySpec{Type: v1.ServicePrincipal, ResourceID: "r"},
			}},
			Status: v1.AzureAssignedIdentityStatus{Status: "Created", Message: "x" + strings.Repeat("ä", 2047)},
		}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%T -want +got:\n%s", c.got, diff)
		}
		if text, err := json.Marshal(c.got); err != nil || len(text) > 8<<10 {
			t.Errorf("%T: %d bytes are left, error %v", c.got, len(text), err)
		}
	}
}
