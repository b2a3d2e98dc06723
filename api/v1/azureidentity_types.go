// AzureIdentity: an identity on Azure.

package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IdentityType is the kind of an AzureIdentity: how its tokens are issued.
//
// +kubebuilder:validation:Minimum=-2147483648
// +kubebuilder:validation:Maximum=2147483647
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
	// BindingLabel on a pod is the selector of the bindings that apply to it.
	BindingLabel = "aadpodidbinding"
	// CaptureHostNetworkLabel with the value "true" on a pod on the node's network lets NMI answer the
	// pod's requests to the metadata service, if the cluster's owner allows it
	// (nmi --host-network-pods=label). New in podid.
	CaptureHostNetworkLabel = "aadpodidentity.k8s.io/capture-host-network"

	// AllowedNamespacesAnnotation on an AzureIdentity of type 3 is its owner's
	// consent that identities of these namespaces, separated by commas, are
	// shared from it (spec.sharedFrom): pods there then use the same federated
	// credential. AllowedNamespacesAll means all of them. New in podid.
	AllowedNamespacesAnnotation = "aadpodidentity.k8s.io/allowed-namespaces"
	// AllowedNamespacesAll is the value for all namespaces.
	AllowedNamespacesAll = "*"

	// PreassignAnnotation on an AzureIdentity of type 0 puts it on node groups
	// before any pod needs it there, and keeps it there: PreassignAll for all
	// of the cluster, or their names separated by commas. A name is that of a
	// VM or scale set, <resource group>/<name>, or the whole ARM resource ID;
	// letter case does not matter. New in podid.
	PreassignAnnotation = "aadpodidentity.k8s.io/preassign"
	// PreassignAll is the value of PreassignAnnotation for all node groups.
	PreassignAll = "all"
)

// The types of conditions that MIC writes.
const (
	// ConditionAssignable on an AzureIdentity is False while Azure refuses to assign it and True once
	// Azure accepts it again. It is Unknown when no pod needs the identity any more.
	ConditionAssignable = "Assignable"
	// ConditionBroker on an AzureIdentity of type 3 is False, with the reason, while MIC cannot create
	// the ServiceAccount that represents it. Then it is True.
	ConditionBroker = "Broker"
	// ConditionAssigned on an AzureAssignedIdentity is False, with the reason, while the identity is
	// blocked. Then it is True.
	ConditionAssigned = "Assigned"
	// PodConditionAssigned on a pod is True when all identities that its bindings grant are on its
	// node. A pod can name it in its readinessGates. It is also written, as False, to a pod whose
	// identity is refused.
	PodConditionAssigned = "aadpodidentity.k8s.io/assigned"
)

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=podid
// +kubebuilder:metadata:annotations="api-approved.kubernetes.io=unapproved"
// +kubebuilder:validation:XValidation:rule="has(self.spec) || oldSelf.hasValue() && !has(oldSelf.value().spec)",optionalOldSelf=true,fieldPath=".spec",reason=FieldValueRequired,message="describe the identity, for example spec: {type: 0, resourceID: ...}"
// +kubebuilder:printcolumn:name="Type",type=integer,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="ClientID",type=string,JSONPath=`.spec.clientID`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Problem",type=string,JSONPath=`.status.conditions[?(@.status=="False")].reason`,priority=1

// AzureIdentity is an Azure identity that an AzureIdentityBinding in the same namespace can grant
// to pods.
type AzureIdentity struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// The rules are on this field and not on the type AzureIdentitySpec, so that AzureIdentityCopy has
	// none. They are not applied to a spec that an update leaves unchanged (ratcheting), so older
	// objects keep working.

	// spec describes the identity.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.type in [0, 1, 2, 3]",fieldPath=".type",reason=FieldValueInvalid,message="use 0 (user-assigned managed identity), 1 (service principal with a client secret), 2 (service principal with a certificate) or 3 (federated, no secret)"
	// +kubebuilder:validation:XValidation:rule="self.type != 0 || (has(self.resourceID) && self.resourceID != '')",fieldPath=".resourceID",reason=FieldValueRequired,message="type 0 needs the resource ID of the user-assigned identity: az identity show --query id"
	// +kubebuilder:validation:XValidation:rule="self.type != 0 || !has(self.resourceID) || self.resourceID == '' || (self.resourceID.matches('^/(?i:subscriptions)/[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}/(?i:resourceGroups)/[-_.()\\\\p{L}\\\\p{M}\\\\p{Nd}]{1,90}/(?i:providers)/(?i:Microsoft[.]ManagedIdentity)/(?i:userAssignedIdentities)/[0-9a-zA-Z][-_0-9a-zA-Z]{0,127}$') && !self.resourceID.matches('[.]/(?i:providers)/'))",fieldPath=".resourceID",reason=FieldValueInvalid,message="must look like /subscriptions/<GUID>/resourceGroups/<group>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>: az identity show --query id"
	// +kubebuilder:validation:XValidation:rule="!(self.type in [0, 3]) || !has(self.resourceID) || !self.resourceID.matches('[\\\\x{130}\\\\x{131}\\\\x{17F}\\\\x{212A}]')",fieldPath=".resourceID",reason=FieldValueInvalid,message="has a letter that imitates a plain one (U+0130, U+0131, U+017F or U+212A): copy the ID from az identity show --query id"
	// +kubebuilder:validation:XValidation:rule="!(self.type in [1, 2, 3]) || (has(self.clientID) && self.clientID != '')",fieldPath=".clientID",reason=FieldValueRequired,message="types 1, 2 and 3 need the client ID of the application: az ad app show --query appId"
	// +kubebuilder:validation:XValidation:rule="!has(self.clientID) || self.clientID == '' || self.clientID.matches('^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$')",fieldPath=".clientID",reason=FieldValueInvalid,message="must be a GUID such as 00000000-0000-0000-0000-000000000000: az identity show --query clientId, or az ad app show --query appId"
	// +kubebuilder:validation:XValidation:rule="!has(self.objectID) || self.objectID == '' || self.objectID.matches('^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$')",fieldPath=".objectID",reason=FieldValueInvalid,message="must be a GUID such as 00000000-0000-0000-0000-000000000000: az identity show --query principalId"
	// +kubebuilder:validation:XValidation:rule="!(self.type in [1, 2, 3]) || (has(self.tenantID) && self.tenantID != '')",fieldPath=".tenantID",reason=FieldValueRequired,message="types 1, 2 and 3 need the tenant of the application: az account show --query tenantId"
	// +kubebuilder:validation:XValidation:rule="!has(self.tenantID) || self.tenantID == '' || self.tenantID == 'adfs' || self.tenantID.matches('^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$') || self.tenantID.matches('^([0-9a-zA-Z]([-0-9a-zA-Z]{0,61}[0-9a-zA-Z])?[.])+[a-zA-Z]{2,63}$')",fieldPath=".tenantID",reason=FieldValueInvalid,message="must be a GUID, a domain of the tenant such as contoso.onmicrosoft.com, or adfs: az account show --query tenantId"
	// +kubebuilder:validation:XValidation:rule="!has(self.auxiliaryTenantIDs) || self.auxiliaryTenantIDs.all(t, t.matches('^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$') || t.matches('^([0-9a-zA-Z]([-0-9a-zA-Z]{0,61}[0-9a-zA-Z])?[.])+[a-zA-Z]{2,63}$'))",fieldPath=".auxiliaryTenantIDs",reason=FieldValueInvalid,message="each must be a GUID or a domain of the tenant such as contoso.onmicrosoft.com"
	// +kubebuilder:validation:XValidation:rule="!(self.type in [1, 2]) || (has(self.clientPassword) && has(self.clientPassword.name) && self.clientPassword.name != '')",fieldPath=".clientPassword",reason=FieldValueRequired,message="types 1 and 2 need clientPassword.name, the Secret with the key clientSecret (type 1) or certificate (type 2)"
	// +kubebuilder:validation:XValidation:rule="!has(self.adEndpoint) || self.adEndpoint == '' || (isURL(self.adEndpoint) && url(self.adEndpoint).getScheme() == 'https' && url(self.adEndpoint).getHostname() != '')",fieldPath=".adEndpoint",reason=FieldValueInvalid,message="must be an https URL such as https://login.microsoftonline.com/: credentials are sent there"
	// +kubebuilder:validation:XValidation:rule="!has(self.federatedAudience) || self.federatedAudience == '' || self.type == 3",fieldPath=".federatedAudience",reason=FieldValueForbidden,message="only type 3 has an audience: leave it out, or set type: 3"
	// +kubebuilder:validation:XValidation:rule="!has(self.federatedAudience) || self.federatedAudience.matches('^[!-~]*$')",fieldPath=".federatedAudience",reason=FieldValueInvalid,message="must be the audience of the federated credential, without blanks, such as api://AzureADTokenExchange"
	// +kubebuilder:validation:XValidation:rule="!has(self.sharedFrom) || self.type == 3",fieldPath=".sharedFrom",reason=FieldValueForbidden,message="only identities of type 3 can be shared between namespaces: leave it out, or set type: 3"
	// +kubebuilder:validation:XValidation:rule="!has(self.sharedFrom) || (self.sharedFrom.__namespace__.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && self.sharedFrom.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'))",fieldPath=".sharedFrom",reason=FieldValueInvalid,message="must be the namespace and the name of an AzureIdentity of type 3"
	// +kubebuilder:validation:XValidation:rule="self.type != 3 || !has(self.tenantID) || self.tenantID != 'adfs'",fieldPath=".tenantID",reason=FieldValueInvalid,message="ADFS has no federated credentials: use type 1 or 2, or a tenant of Entra ID"
	// +kubebuilder:validation:XValidation:rule="self.type != 3 || !has(self.resourceID) || self.resourceID == '' || (self.resourceID.matches('^/(?i:subscriptions)/[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}/(?i:resourceGroups)/[-_.()\\\\p{L}\\\\p{M}\\\\p{Nd}]{1,90}/(?i:providers)/(?i:Microsoft[.]ManagedIdentity)/(?i:userAssignedIdentities)/[0-9a-zA-Z][-_0-9a-zA-Z]{0,127}$') && !self.resourceID.matches('[.]/(?i:providers)/'))",fieldPath=".resourceID",reason=FieldValueInvalid,message="leave it out for an application, or give the resource ID of the managed identity: az identity show --query id"
	// +kubebuilder:validation:XValidation:rule="!has(self.Type) && !has(self.resourceid) && !has(self.ResourceID) && !has(self.clientid) && !has(self.ClientID) && !has(self.clientpassword) && !has(self.ClientPassword) && !has(self.tenantid) && !has(self.TenantID) && !has(self.auxiliarytenantids) && !has(self.AuxiliaryTenantIDs) && !has(self.adresourceid) && !has(self.ADResourceID) && !has(self.adendpoint) && !has(self.ADEndpoint) && (!has(self.clientPassword) || !has(self.clientPassword.Name) && !has(self.clientPassword.Namespace))",reason=FieldValueForbidden,message="a field is spelled as before v1.6: write type, resourceID, clientID, clientPassword (with name and namespace), tenantID, auxiliaryTenantIDs, adResourceID and adEndpoint"
	Spec AzureIdentitySpec `json:"spec,omitzero"`

	// status describes whether Azure accepts the identity.
	// +optional
	Status AzureIdentityStatus `json:"status,omitzero"`
}

// AzureIdentitySpec describes the identity. An empty string counts as an omitted field, since
// clients of v1.8.17 write every field.
type AzureIdentitySpec struct {
	// metadata is kept for v1.8.17's sake, whose clients write an empty one.
	// +optional
	Metadata EmptyMetadata `json:"metadata,omitzero"`

	// type is the type of the identity: 0 for a user-assigned managed identity, 1 for a service
	// principal with a client secret, 2 for a service principal with a certificate, 3 for a federated
	// application or identity without any secret.
	// +optional
	// +kubebuilder:default=0
	Type IdentityType `json:"type,omitempty"`

	// resourceID is the ARM resource ID of the user-assigned identity, in any case. Required for type
	// 0. For a managed identity of type 3, pods can request the identity by it. Not used for types 1
	// and 2.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	ResourceID string `json:"resourceID,omitempty"`

	// clientID is the client ID (a GUID) of the identity or application. Required for types 1, 2 and
	// 3. For type 0, pods can request the identity by it (client_id).
	// +optional
	// +kubebuilder:validation:MaxLength=256
	ClientID string `json:"clientID,omitempty"`

	// objectID is the object ID (a GUID) of the identity's service principal, called principal ID by
	// Azure. With it, pods can request the identity by object_id before the first token was issued.
	// New in podid.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	ObjectID string `json:"objectID,omitempty"`

	// clientPassword names the Secret of types 1 and 2. Type 1 uses the key clientSecret, else the
	// only key. Type 2 uses certificate (PFX or PEM) and password. The namespace defaults to the
	// identity's own.
	// +optional
	ClientPassword SecretReference `json:"clientPassword,omitzero"`

	// tenantID is the tenant of the application: a GUID, one of its domains, or
	// adfs on Azure Stack. Required for types 1, 2 and 3.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	TenantID string `json:"tenantID,omitempty"`

	// auxiliaryTenantIDs are further tenants that a multi-tenant application of type 1 gets tokens
	// for. Its pods receive a list of tokens.
	// +optional
	// +nullable
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=256
	AuxiliaryTenantIDs []string `json:"auxiliaryTenantIDs,omitempty"`

	// adResourceID is kept for compatibility with v1.8.17, which does not use it either: a request
	// always names its resource.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	ADResourceID string `json:"adResourceID,omitempty"`

	// adEndpoint is the https URL of the Entra ID (or ADFS) authority for types 1, 2 and 3. It
	// defaults to that of the node's cloud.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	ADEndpoint string `json:"adEndpoint,omitempty"`

	// federatedAudience is the audience that the federated credential of a type 3 identity expects. It
	// defaults to the one that Microsoft documents for the cloud, which is api://AzureADTokenExchange
	// in the public cloud. New in podid.
	// +optional
	// +kubebuilder:validation:MaxLength=600
	FederatedAudience string `json:"federatedAudience,omitempty"`

	// sharedFrom names the type 3 identity of another namespace whose federated
	// credential this one uses. Its owner must allow this namespace by the
	// annotation aadpodidentity.k8s.io/allowed-namespaces, and clientID, tenantID,
	// adEndpoint and federatedAudience must be the same. New in podid.
	// +optional
	SharedFrom IdentityReference `json:"sharedFrom,omitzero"`

	// replicas is kept for v1.8.17's sake; podid does not use it.
	// +optional
	// +nullable
	// +kubebuilder:validation:Minimum=-2147483648
	// +kubebuilder:validation:Maximum=2147483647
	Replicas *int32 `json:"replicas,omitempty"`

	// Deprecated names of the same fields.
	AzureIdentityOldSpelling `json:",inline"`
}

// SecretReference names a Secret.
//
// +structType=atomic
type SecretReference struct {
	// name is the Secret's name.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Name string `json:"name,omitempty"`

	// namespace is the Secret's namespace. It defaults to the identity's own.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Namespace string `json:"namespace,omitempty"`

	// Deprecated names of the same fields.
	SecretReferenceOldSpelling `json:",inline"`
}

// IdentityReference names an AzureIdentity.
type IdentityReference struct {
	// namespace is the identity's namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`

	// name is the identity's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// AzureIdentityStatus describes whether Azure accepts the identity.
type AzureIdentityStatus struct {
	// metadata is kept for v1.8.17's sake, whose clients write an empty one.
	// +optional
	Metadata EmptyMetadata `json:"metadata,omitzero"`

	// availableReplicas is kept for v1.8.17's sake; podid does not use it.
	// +optional
	// +kubebuilder:validation:Minimum=-2147483648
	// +kubebuilder:validation:Maximum=2147483647
	AvailableReplicas int32 `json:"availableReplicas,omitempty"`

	// conditions contain ConditionAssignable once Azure has refused the identity, and ConditionBroker
	// once its broker could not be created. MIC writes them; an identity without a problem has none.
	// New in podid.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// EmptyMetadata is the metadata inside a spec or a status. The schema of v1.8.17 stores none of its
// fields, so an empty object means the same as none.
type EmptyMetadata struct{}

// +kubebuilder:object:root=true

// AzureIdentityList is a list of AzureIdentity.
type AzureIdentityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AzureIdentity `json:"items"`
}
