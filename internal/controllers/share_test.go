package controllers

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

func TestShare(t *testing.T) {
	s := newShared()
	assigned := func(pod, clientID string) *v1.AzureAssignedIdentity {
		o, err := s.slimAssigned(&v1.AzureAssignedIdentity{
			ObjectMeta: metav1.ObjectMeta{Name: pod, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "mic"}}},
			Spec: v1.AzureAssignedIdentitySpec{
				Pod:              pod,
				AzureIdentityRef: &v1.AzureIdentityCopy{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "i"}, Spec: v1.AzureIdentitySpec{ClientID: clientID}},
				AzureBindingRef:  &v1.AzureIdentityBindingCopy{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "b"}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return o.(*v1.AzureAssignedIdentity)
	}
	a, b, c := assigned("a", "1"), assigned("b", "1"), assigned("c", "2")
	if a.Spec.AzureIdentityRef != b.Spec.AzureIdentityRef || a.Spec.AzureBindingRef != c.Spec.AzureBindingRef {
		t.Error("the same is there twice")
	}
	if c.Spec.AzureIdentityRef.Spec.ClientID != "2" || a.Spec.AzureIdentityRef.Spec.ClientID != "1" {
		t.Error("what differs is shared")
	}
	if a.Spec.Pod != "a" || b.Spec.Pod != "b" || a.ManagedFields != nil {
		t.Errorf("%+v", a)
	}
	for i := range maxShared + 1 {
		share(s.identities, fmt.Sprint(i), &v1.AzureIdentityCopy{})
	}
	if len(s.identities) > maxShared {
		t.Errorf("%d are kept", len(s.identities))
	}
	if o, err := s.slimAssigned("a deleted one's key"); err != nil || o != "a deleted one's key" {
		t.Errorf("%v, %v", o, err)
	}
}
