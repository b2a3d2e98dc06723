// Fields as they were spelled before v1.6 of AAD Pod Identity.

package v1

import "k8s.io/apimachinery/pkg/runtime"

// Until v1.6 the Go clients of AAD Pod Identity ignored letter case when they read an object. They
// wrote the names of fields in lower case (resourceid), and the documentation showed the spelling
// of Go (ResourceID). Clusters that were never upgraded still have objects of both forms. MIC's
// type upgrade (internal/controllers/upgrade) gives the fields their current names.
//
// The schema must have the old names because the API server drops unknown fields from every
// response, and from its store at the next write. No other code reads these fields, and a rule
// keeps new objects from using them.

// AzureIdentityOldSpelling are the fields of AzureIdentitySpec under their old names.
type AzureIdentityOldSpelling struct {
	// Type is type as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:Minimum=-2147483648
	// +kubebuilder:validation:Maximum=2147483647
	OldType *int `json:"Type,omitempty"`

	// resourceid is resourceID as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldResourceid string `json:"resourceid,omitempty"`
	// ResourceID is resourceID as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldResourceID string `json:"ResourceID,omitempty"`

	// clientid is clientID as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	OldClientid string `json:"clientid,omitempty"`
	// ClientID is clientID as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	OldClientID string `json:"ClientID,omitempty"`

	// clientpassword is clientPassword as written before v1.6. Deprecated: MIC renames it.
	// +optional
	OldClientpassword *SecretReference `json:"clientpassword,omitempty"`
	// ClientPassword is clientPassword as written before v1.6. Deprecated: MIC renames it.
	// +optional
	OldClientPassword *SecretReference `json:"ClientPassword,omitempty"`

	// tenantid is tenantID as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	OldTenantid string `json:"tenantid,omitempty"`
	// TenantID is tenantID as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	OldTenantID string `json:"TenantID,omitempty"`

	// auxiliarytenantids is auxiliaryTenantIDs as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +nullable
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=256
	OldAuxiliarytenantids []string `json:"auxiliarytenantids,omitempty"`
	// AuxiliaryTenantIDs is auxiliaryTenantIDs as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +nullable
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=256
	OldAuxiliaryTenantIDs []string `json:"AuxiliaryTenantIDs,omitempty"`

	// adresourceid is adResourceID as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldADResourceid string `json:"adresourceid,omitempty"`
	// ADResourceID is adResourceID as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldADResourceID string `json:"ADResourceID,omitempty"`

	// adendpoint is adEndpoint as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldADendpoint string `json:"adendpoint,omitempty"`
	// ADEndpoint is adEndpoint as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldADEndpoint string `json:"ADEndpoint,omitempty"`
}

// SecretReferenceOldSpelling are the fields of SecretReference under their old names, wherever the
// reference is.
type SecretReferenceOldSpelling struct {
	// Name is name as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldName string `json:"Name,omitempty"`

	// Namespace is namespace as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldNamespace string `json:"Namespace,omitempty"`
}

// AzureIdentityBindingOldSpelling are the fields of AzureIdentityBindingSpec under
// their old names.
type AzureIdentityBindingOldSpelling struct {
	// azureidentity is azureIdentity as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldAzureidentity string `json:"azureidentity,omitempty"`
	// AzureIdentity is azureIdentity as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldAzureIdentity string `json:"AzureIdentity,omitempty"`

	// Selector is selector as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldSelector string `json:"Selector,omitempty"`

	// Weight is weight as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:Minimum=-2147483648
	// +kubebuilder:validation:Maximum=2147483647
	OldWeight *int `json:"Weight,omitempty"`
}

// AzureAssignedIdentityOldSpelling are the fields of AzureAssignedIdentitySpec
// under their old names. Only MIC ever wrote them, so there is one spelling.
type AzureAssignedIdentityOldSpelling struct {
	// azureidentityref is azureIdentityRef as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	OldAzureIdentityRef *runtime.RawExtension `json:"azureidentityref,omitempty"`

	// azurebindingref is azureBindingRef as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	OldAzureBindingRef *runtime.RawExtension `json:"azurebindingref,omitempty"`

	// podnamespace is podNamespace as written before v1.6. Deprecated: MIC renames it.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	OldPodNamespace string `json:"podnamespace,omitempty"`
}
