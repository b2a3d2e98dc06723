package v1_test

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

// TestWire pins the JSON names, and that zero values are left out.
func TestWire(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "n"}
	replicas := int32(2)
	for _, tt := range []struct {
		name   string
		object any
		want   string
	}{
		{"identity, zero", v1.AzureIdentity{ObjectMeta: meta}, `{"metadata":{"name":"n"}}`},
		{
			"identity",
			v1.AzureIdentity{ObjectMeta: meta, Spec: v1.AzureIdentitySpec{
				Type: 2, ResourceID: "r", ClientID: "c", ObjectID: "o", ClientPassword: v1.SecretReference{Name: "s", Namespace: "ns"},
				TenantID: "t", AuxiliaryTenantIDs: []string{"a"}, ADResourceID: "ar", ADEndpoint: "ae", Replicas: &replicas,
			}, Status: v1.AzureIdentityStatus{AvailableReplicas: 1}},
			`{"metadata":{"name":"n"},"spec":{"type":2,"resourceID":"r","clientID":"c","objectID":"o",` +
				`"clientPassword":{"name":"s","namespace":"ns"},"tenantID":"t","auxiliaryTenantIDs":["a"],` +
				`"adResourceID":"ar","adEndpoint":"ae","replicas":2},"status":{"availableReplicas":1}}`,
		},
		{
			"binding",
			v1.AzureIdentityBinding{ObjectMeta: meta, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "i", Selector: "s", Weight: 3}},
			`{"metadata":{"name":"n"},"spec":{"azureIdentity":"i","selector":"s","weight":3}}`,
		},
		{
			"exception",
			v1.AzurePodIdentityException{ObjectMeta: meta, Spec: v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"a": "b"}}},
			`{"metadata":{"name":"n"},"spec":{"podLabels":{"a":"b"}}}`,
		},
		{
			"assigned",
			v1.AzureAssignedIdentity{
				ObjectMeta: meta,
				Spec: v1.AzureAssignedIdentitySpec{
					AzureIdentityRef: &v1.AzureIdentityCopy{APIVersion: "v", Kind: "k", ObjectMeta: meta},
					AzureBindingRef:  &v1.AzureIdentityBindingCopy{APIVersion: "v", Kind: "k", ObjectMeta: meta},
					Pod:              "p", PodNamespace: "pn", NodeName: "nn",
				},
				Status: v1.AzureAssignedIdentityStatus{Status: "Created", AvailableReplicas: 1, Reason: "r", Message: "m"},
			},
			`{"metadata":{"name":"n"},"spec":{"azureIdentityRef":{"apiVersion":"v","kind":"k","metadata":{"name":"n"}},` +
				`"azureBindingRef":{"apiVersion":"v","kind":"k","metadata":{"name":"n"}},"pod":"p","podNamespace":"pn","nodename":"nn"},` +
				`"status":{"status":"Created","availableReplicas":1,"reason":"r","message":"m"}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := json.Marshal(tt.object)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}
