package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Finalizer holds an AzureAssignedIdentity until MIC has let go of it.
const Finalizer = "azureassignedidentity.finalizers.aadpodidentity.k8s.io"

// Labels of an AzureAssignedIdentity, for watches narrowed to one node or pod.
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

// AzureAssignedIdentity is one pod and one identity, and how far the identity
// has come on its way to the pod's node.
type AzureAssignedIdentity struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AzureAssignedIdentitySpec   `json:"spec,omitempty"`
	Status AzureAssignedIdentityStatus `json:"status,omitempty"`
}

// AzureAssignedIdentitySpec names the pod, its node, the identity and the binding that grants it.
type AzureAssignedIdentitySpec struct {
	metav1.ObjectMeta `json:"metadata,omitempty"`

	AzureIdentityRef *AzureIdentity        `json:"azureIdentityRef,omitempty"`
	AzureBindingRef  *AzureIdentityBinding `json:"azureBindingRef,omitempty"`
	Pod              string                `json:"pod,omitempty"`
	PodNamespace     string                `json:"podNamespace,omitempty"`
	NodeName         string                `json:"nodename,omitempty"`
	Replicas         *int32                `json:"replicas,omitempty"`
}

// AzureAssignedIdentityStatus is the state, and what stands in its way.
type AzureAssignedIdentityStatus struct {
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status            string `json:"status,omitempty"`
	AvailableReplicas int32  `json:"availableReplicas,omitempty"`

	// reason, when set, says in one word why the identity cannot come to the
	// node (new in podid; v1.8.17 ignores it).
	Reason string `json:"reason,omitempty"`
	// message is the reason for a human, with the remedy.
	Message string `json:"message,omitempty"`
}

// +kubebuilder:object:root=true

// AzureAssignedIdentityList is a list of AzureAssignedIdentity.
type AzureAssignedIdentityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AzureAssignedIdentity `json:"items"`
}
