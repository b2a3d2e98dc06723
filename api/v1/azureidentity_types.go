package v1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IdentityType says what mints the tokens of an AzureIdentity.
type IdentityType int

const (
	// UserAssignedMSI is a user-assigned managed identity, served by IMDS.
	UserAssignedMSI IdentityType = 0
	// ServicePrincipal is an application with a client secret.
	ServicePrincipal IdentityType = 1
	// ServicePrincipalCertificate is an application with a certificate.
	ServicePrincipalCertificate IdentityType = 2
	// Federated is an application or identity that trusts the cluster's
	// service account issuer and needs no secret.
	Federated IdentityType = 3
)

const (
	// BehaviorAnnotation on an AzureIdentity set to BehaviorNamespaced limits
	// the identity to pods of its own namespace, whatever the cluster's default.
	BehaviorAnnotation = "aadpodidentity.k8s.io/Behavior"
	// BehaviorNamespaced is the one meaningful value of BehaviorAnnotation.
	BehaviorNamespaced = "namespaced"
	// BindingLabel on a pod names the selector of the bindings it wants.
	BindingLabel = "aadpodidbinding"
)

// +kubebuilder:object:root=true

// AzureIdentity is an identity of Azure that pods can be given.
type AzureIdentity struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AzureIdentitySpec   `json:"spec,omitempty"`
	Status AzureIdentityStatus `json:"status,omitempty"`
}

// AzureIdentitySpec describes the identity.
type AzureIdentitySpec struct {
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Type               IdentityType           `json:"type,omitempty"`
	ResourceID         string                 `json:"resourceID,omitempty"`
	ClientID           string                 `json:"clientID,omitempty"`
	ObjectID           string                 `json:"objectID,omitempty"`
	ClientPassword     corev1.SecretReference `json:"clientPassword,omitempty"`
	TenantID           string                 `json:"tenantID,omitempty"`
	AuxiliaryTenantIDs []string               `json:"auxiliaryTenantIDs,omitempty"`
	ADResourceID       string                 `json:"adResourceID,omitempty"`
	ADEndpoint         string                 `json:"adEndpoint,omitempty"`
	Replicas           *int32                 `json:"replicas,omitempty"`
}

// AzureIdentityStatus is kept for v1.8.17's sake.
type AzureIdentityStatus struct {
	metav1.ObjectMeta `json:"metadata,omitempty"`
	AvailableReplicas int32 `json:"availableReplicas,omitempty"`
}

// +kubebuilder:object:root=true

// AzureIdentityList is a list of AzureIdentity.
type AzureIdentityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AzureIdentity `json:"items"`
}
