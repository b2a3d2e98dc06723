// AzureAssignedIdentity: an identity that a pod has on its node.

package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Finalizer is on the AzureAssignedIdentities of v1.8.17 and holds them until MIC removes it.
// podid's own have none, so that no object is stuck if MIC is uninstalled.
const Finalizer = "azureassignedidentity.finalizers.aadpodidentity.k8s.io"

// Labels of an AzureAssignedIdentity, for watches of a single node or pod.
const (
	NodeNameLabel     = "nodename"
	PodNameLabel      = "podname"
	PodNamespaceLabel = "podnamespace"
)

// The states of an AzureAssignedIdentity.
const (
	// StateCreated: the identity is on its way to the node.
	StateCreated = "Created"
	// StateAssigned: the node has the identity.
	StateAssigned = "Assigned"
	// StateUnassigned: the pod is gone and the identity is leaving.
	StateUnassigned = "Unassigned"
)

// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=podid
// +kubebuilder:metadata:annotations="api-approved.kubernetes.io=unapproved"
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.pod`
// +kubebuilder:printcolumn:name="PodNamespace",type=string,JSONPath=`.spec.podNamespace`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.nodename`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Identity",type=string,JSONPath=`.spec.azureIdentityRef.metadata.name`,priority=1
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.reason`,priority=1

// AzureAssignedIdentity represents one identity of one pod, and how far the identity has come on
// its way to the pod's node. MIC writes it; users do not need to. There is no status subresource,
// so one write sets spec and status.
type AzureAssignedIdentity struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec names the pod, its node, the identity and the binding that grants it. MIC writes it as a
	// whole. It is atomic because tracking the owner of each field would be a fifth of the API
	// server's work for such an object.
	// +optional
	// +structType=atomic
	Spec AzureAssignedIdentitySpec `json:"spec,omitzero"`

	// status is the state, and what blocks the identity.
	// +optional
	Status AzureAssignedIdentityStatus `json:"status,omitzero"`
}

// AzureAssignedIdentitySpec names the pod, its node, the identity and the binding that grants it.
type AzureAssignedIdentitySpec struct {
	// metadata is kept for v1.8.17's sake, whose clients write an empty one.
	// +optional
	Metadata EmptyMetadata `json:"metadata,omitzero"`

	// azureIdentityRef is a copy of the AzureIdentity as it was when MIC wrote it.
	// +optional
	// +kubebuilder:validation:EmbeddedResource
	AzureIdentityRef *AzureIdentityCopy `json:"azureIdentityRef,omitempty"`

	// azureBindingRef is a copy of the AzureIdentityBinding as it was when MIC
	// wrote it.
	// +optional
	// +kubebuilder:validation:EmbeddedResource
	AzureBindingRef *AzureIdentityBindingCopy `json:"azureBindingRef,omitempty"`

	// pod is the pod's name.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Pod string `json:"pod,omitempty"`

	// podNamespace is the pod's namespace.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	PodNamespace string `json:"podNamespace,omitempty"`

	// nodename is the node that the pod runs on.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	NodeName string `json:"nodename,omitempty"`

	// replicas is kept for v1.8.17's sake; podid does not use it.
	// +optional
	// +nullable
	// +kubebuilder:validation:Minimum=-2147483648
	// +kubebuilder:validation:Maximum=2147483647
	Replicas *int32 `json:"replicas,omitempty"`

	// Deprecated names of the same fields.
	AzureAssignedIdentityOldSpelling `json:",inline"`
}

// AzureIdentityCopy is an AzureIdentity inside another object. It is a separate type because the
// rules of AzureIdentity must not apply to it: MIC has to be able to copy an identity that is older
// than the rules.
//
// The API server requires apiVersion, kind and metadata.name of embedded objects. apiVersion and
// kind are plain fields, since a type with metav1.TypeMeta would become a kind of the API.
type AzureIdentityCopy struct {
	// apiVersion is aadpodidentity.k8s.io/v1.
	// +optional
	APIVersion string `json:"apiVersion,omitempty"`
	// kind is AzureIdentity.
	// +optional
	Kind string `json:"kind,omitempty"`
	// metadata is that of the original.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec describes the identity.
	// +optional
	Spec AzureIdentitySpec `json:"spec,omitzero"`

	// status is kept for v1.8.17's sake; podid does not use it.
	// +optional
	Status AzureIdentityStatus `json:"status,omitzero"`
}

// AzureIdentityBindingCopy is an AzureIdentityBinding inside another object. It is a separate type
// for the same reason as AzureIdentityCopy.
type AzureIdentityBindingCopy struct {
	// apiVersion is aadpodidentity.k8s.io/v1.
	// +optional
	APIVersion string `json:"apiVersion,omitempty"`
	// kind is AzureIdentityBinding.
	// +optional
	Kind string `json:"kind,omitempty"`
	// metadata is that of the original.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec connects a selector to an identity.
	// +optional
	Spec AzureIdentityBindingSpec `json:"spec,omitzero"`

	// status is kept for v1.8.17's sake; podid does not use it.
	// +optional
	Status AzureIdentityBindingStatus `json:"status,omitzero"`
}

// AzureAssignedIdentityStatus is the state, and what blocks the identity.
type AzureAssignedIdentityStatus struct {
	// metadata is kept for v1.8.17's sake, whose clients write an empty one.
	// +optional
	Metadata EmptyMetadata `json:"metadata,omitzero"`

	// status is the state: Created (the identity is on its way to the node),
	// Assigned (the node has it) or Unassigned (the pod is gone and the identity
	// is leaving).
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Status string `json:"status,omitempty"`

	// availableReplicas is kept for v1.8.17's sake; podid does not use it.
	// +optional
	// +kubebuilder:validation:Minimum=-2147483648
	// +kubebuilder:validation:Maximum=2147483647
	AvailableReplicas int32 `json:"availableReplicas,omitempty"`

	// reason, when set, is the one-word reason why the identity cannot be assigned to the node. New in
	// podid; v1.8.17 ignores it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`

	// message explains the reason to a person, with the remedy. New in podid.
	// +optional
	// +kubebuilder:validation:MaxLength=32768
	Message string `json:"message,omitempty"`

	// conditions contain ConditionAssigned once the identity has been blocked: reason and message
	// again, and since when. New in podid.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// +kubebuilder:object:root=true

// AzureAssignedIdentityList is a list of AzureAssignedIdentity.
type AzureAssignedIdentityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AzureAssignedIdentity `json:"items"`
}
