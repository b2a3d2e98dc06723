// Package v1 holds the five kinds of the API group aadpodidentity.k8s.io/v1:
// their schema, their validation rules (CEL) and nothing else. JSON names of the
// first four are those of AAD Pod Identity v1.8.17, so that objects made for it are
// read and written unchanged. AzureIdentityPolicy is new in podid.
//
// +kubebuilder:object:generate=true
// +groupName=aadpodidentity.k8s.io
package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion names the API group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "aadpodidentity.k8s.io", Version: "v1"} //nolint:gochecknoglobals // where every Kubernetes API package has it

// AddToScheme registers the kinds of this package with a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(
		GroupVersion,
		&AzureIdentity{}, &AzureIdentityList{},
		&AzureIdentityBinding{}, &AzureIdentityBindingList{},
		&AzureAssignedIdentity{}, &AzureAssignedIdentityList{},
		&AzurePodIdentityException{}, &AzurePodIdentityExceptionList{},
		&AzureIdentityPolicy{}, &AzureIdentityPolicyList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
