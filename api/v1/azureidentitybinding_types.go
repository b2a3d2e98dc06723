// AzureIdentityBinding: which pods may use an AzureIdentity.

package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=podid
// +kubebuilder:metadata:annotations="api-approved.kubernetes.io=unapproved"
// +kubebuilder:validation:XValidation:rule="has(self.spec) || oldSelf.hasValue() && !has(oldSelf.value().spec)",optionalOldSelf=true,fieldPath=".spec",reason=FieldValueRequired,message="name the identity and the pods: spec: {azureIdentity: ..., selector: ...}"
// +kubebuilder:printcolumn:name="AzureIdentity",type=string,JSONPath=`.spec.azureIdentity`
// +kubebuilder:printcolumn:name="Selector",type=string,JSONPath=`.spec.selector`
// +kubebuilder:printcolumn:name="Weight",type=integer,JSONPath=`.spec.weight`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// AzureIdentityBinding grants the identity that it names to pods whose label aadpodidbinding equals
// the selector.
type AzureIdentityBinding struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// As in AzureIdentity, the rules are on this field so that AzureIdentityBindingCopy has none.

	// spec connects a selector to an identity.
	// +optional
	// +kubebuilder:validation:XValidation:rule="has(self.azureIdentity) && self.azureIdentity != ''",fieldPath=".azureIdentity",reason=FieldValueRequired,message="name the AzureIdentity, in this namespace, that the selected pods may use"
	// +kubebuilder:validation:XValidation:rule="!has(self.azureIdentity) || self.azureIdentity == '' || self.azureIdentity.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",fieldPath=".azureIdentity",reason=FieldValueInvalid,message="must be the name of an AzureIdentity in this namespace, without the namespace: lower case letters, digits, - and ."
	// +kubebuilder:validation:XValidation:rule="has(self.selector) && self.selector != ''",fieldPath=".selector",reason=FieldValueRequired,message="set it to the value that the label aadpodidbinding has on the pods"
	// +kubebuilder:validation:XValidation:rule="!has(self.selector) || self.selector == '' || self.selector.matches('^[0-9A-Za-z]([-_.0-9A-Za-z]{0,61}[0-9A-Za-z])?$')",fieldPath=".selector",reason=FieldValueInvalid,message="must be one value of the label aadpodidbinding, not an expression: at most 63 letters, digits, -, _ and ., beginning and ending with a letter or digit"
	// +kubebuilder:validation:XValidation:rule="!has(self.azureidentity) && !has(self.AzureIdentity) && !has(self.Selector) && !has(self.Weight)",reason=FieldValueForbidden,message="a field is spelled as before v1.6: write azureIdentity, selector and weight"
	Spec AzureIdentityBindingSpec `json:"spec,omitzero"`

	// status is kept for v1.8.17's sake; podid does not use it.
	// +optional
	Status AzureIdentityBindingStatus `json:"status,omitzero"`
}

// AzureIdentityBindingSpec connects a selector to an identity.
type AzureIdentityBindingSpec struct {
	// metadata is kept for v1.8.17's sake, whose clients write an empty one.
	// +optional
	Metadata EmptyMetadata `json:"metadata,omitzero"`

	// azureIdentity is the name of an AzureIdentity in the binding's namespace.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	AzureIdentity string `json:"azureIdentity,omitempty"`

	// selector is the value of the label aadpodidbinding that selects pods.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Selector string `json:"selector,omitempty"`

	// weight determines which identity a pod with several gets when it names none: the one with the
	// highest weight, then the oldest, then the first by name.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=-2147483648
	// +kubebuilder:validation:Maximum=2147483647
	Weight int `json:"weight,omitempty"`

	// Deprecated names of the same fields.
	AzureIdentityBindingOldSpelling `json:",inline"`
}

// AzureIdentityBindingStatus is kept for v1.8.17's sake.
type AzureIdentityBindingStatus struct {
	// metadata is kept for v1.8.17's sake, whose clients write an empty one.
	// +optional
	Metadata EmptyMetadata `json:"metadata,omitzero"`

	// availableReplicas is kept for v1.8.17's sake; podid does not use it.
	// +optional
	// +kubebuilder:validation:Minimum=-2147483648
	// +kubebuilder:validation:Maximum=2147483647
	AvailableReplicas int32 `json:"availableReplicas,omitempty"`
}

// +kubebuilder:object:root=true

// AzureIdentityBindingList is a list of AzureIdentityBinding.
type AzureIdentityBindingList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AzureIdentityBinding `json:"items"`
}
