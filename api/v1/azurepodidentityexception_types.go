// AzurePodIdentityException: pods that reach the metadata service as if podid were not there.

package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=podid
// +kubebuilder:metadata:annotations="api-approved.kubernetes.io=unapproved"
// +kubebuilder:validation:XValidation:rule="has(self.spec) || oldSelf.hasValue() && !has(oldSelf.value().spec)",optionalOldSelf=true,fieldPath=".spec",reason=FieldValueRequired,message="name labels of pods: spec: {podLabels: {...}}"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// AzurePodIdentityException gives plain IMDS to pods of its namespace that
// carry one of its labels.
type AzurePodIdentityException struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec lists the labels.
	// +optional
	// +kubebuilder:validation:XValidation:rule="has(self.podLabels) && size(self.podLabels) > 0",fieldPath=".podLabels",reason=FieldValueRequired,message="name at least one label of the pods that shall get plain IMDS; without any the exception matches no pod"
	Spec AzurePodIdentityExceptionSpec `json:"spec,omitzero"`

	// status is kept for v1.8.17's sake; podid does not use it.
	// +optional
	Status AzurePodIdentityExceptionStatus `json:"status,omitzero"`
}

// AzurePodIdentityExceptionSpec lists the labels.
type AzurePodIdentityExceptionSpec struct {
	// metadata is kept for v1.8.17's sake, whose clients write an empty one.
	// +optional
	Metadata EmptyMetadata `json:"metadata,omitzero"`

	// podLabels are labels of pods, in the exception's namespace. A pod that has
	// any one of them, with the same value, gets plain IMDS.
	// +optional
	// +nullable
	// +kubebuilder:validation:MaxProperties=1000
	PodLabels map[string]string `json:"podLabels,omitempty"`
}

// AzurePodIdentityExceptionStatus is kept for v1.8.17's sake.
type AzurePodIdentityExceptionStatus struct {
	// metadata is kept for v1.8.17's sake, whose clients write an empty one.
	// +optional
	Metadata EmptyMetadata `json:"metadata,omitzero"`

	// status is kept for v1.8.17's sake; podid does not use it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Status string `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// AzurePodIdentityExceptionList is a list of AzurePodIdentityException.
type AzurePodIdentityExceptionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AzurePodIdentityException `json:"items"`
}
