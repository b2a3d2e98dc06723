// AzureIdentityPolicy: which namespaces may use which identities, by the cluster's owner.

package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// PolicyName is the name of the only AzureIdentityPolicy that takes effect.
const PolicyName = "default"

// KubeletIdentityLabel is the node label with which AKS publishes the client ID of the kubelet's
// identity.
const KubeletIdentityLabel = "kubernetes.azure.com/kubelet-identity-client-id"

// HostRoutingLabel is the node label with which AKS marks nodes with eBPF host routing.
const HostRoutingLabel = "kubernetes.azure.com/ebpf-host-routing"

// PolicyMode is what happens to a use that no rule of the policy allows.
//
// +kubebuilder:validation:Enum=off;warn;enforce
type PolicyMode string

// The modes of an AzureIdentityPolicy.
const (
	// PolicyOff allows it, as without the object.
	PolicyOff PolicyMode = "off"
	// PolicyWarn allows and reports it.
	PolicyWarn PolicyMode = "warn"
	// PolicyEnforce refuses it.
	PolicyEnforce PolicyMode = "enforce"
)

// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=podid
// +kubebuilder:metadata:annotations="api-approved.kubernetes.io=unapproved"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",fieldPath=".metadata",message="the cluster has one policy: name it default, and give each team a rule in spec.rules"
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Rules",type=string,JSONPath=`.spec.rules[*].name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// AzureIdentityPolicy lists which namespaces and ServiceAccounts may use which Azure identities.
// The owner of the cluster writes it. It is a single object named default: it has one mode, changes
// as a whole, and an admission policy can evaluate all of it. Several owners can share it by
// server-side apply, with one rule each.
type AzureIdentityPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec is the mode and the rules.
	// +required
	Spec AzureIdentityPolicySpec `json:"spec"`
}

// AzureIdentityPolicySpec is the mode and the rules.
type AzureIdentityPolicySpec struct {
	// mode is what happens to a use that no rule allows: off (it is allowed, as
	// without the object), warn (it is allowed and reported) or enforce (it is refused).
	// +required
	Mode PolicyMode `json:"mode"`

	// rules are the rules. A use of an identity is allowed when one rule allows it. Without rules,
	// nothing is allowed.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=1000
	Rules []PolicyRule `json:"rules,omitempty"`
}

// PolicyRule allows pods to use identities.
//
// +kubebuilder:validation:XValidation:rule="has(self.namespaces) && size(self.namespaces) > 0 || has(self.namespaceSelector)",message="say which namespaces: set namespaces, or namespaceSelector ({} selects all)"
// +kubebuilder:validation:XValidation:rule="has(self.identities) && size(self.identities) > 0 || has(self.plainIMDS) && self.plainIMDS",message="say what is allowed: set identities ([{}] allows all), or plainIMDS: true"
type PolicyRule struct {
	// name is the rule's name, which messages use.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// namespaces are the names of the namespaces that the rule applies to.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Namespaces []string `json:"namespaces,omitempty"`

	// namespaceSelector selects further namespaces by their labels. A user who may label a namespace
	// can make the rule apply to it.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`

	// serviceAccounts are the names of the pods' ServiceAccounts that the rule applies to. If empty,
	// it applies to all of them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	ServiceAccounts []string `json:"serviceAccounts,omitempty"`

	// identities are the identities that the pods may use. An identity is allowed when one entry
	// matches it.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	Identities []PolicyIdentities `json:"identities,omitempty"`

	// plainIMDS allows AzurePodIdentityExceptions in the namespaces: their pods
	// reach the node's metadata service, and with it every identity of the node.
	// +optional
	PlainIMDS bool `json:"plainIMDS,omitempty"`
}

// PolicyIdentities matches identities. Each field that is set must match. Within a field, one value
// is enough. Without any field it matches every identity except those of the cluster itself.
//
// The cluster's own identities (the kubelet's, MIC's, a machine's system-assigned one) are matched
// only by a resourceID without wildcard or a clientID, in a rule that names the namespace.
type PolicyIdentities struct {
	// resourceIDs are ARM resource IDs of user-assigned identities, in which * matches any characters
	// except a slash. They match type 0 only: Azure checks no other type's resourceID.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:Pattern=`^/(?i:subscriptions)/[-0-9a-fA-F*]{1,36}/(?i:resourceGroups)/[-_.()*\p{L}\p{M}\p{Nd}]{1,90}/(?i:providers)/(?i:Microsoft[.]ManagedIdentity)/(?i:userAssignedIdentities)/[-_*0-9a-zA-Z]{1,128}$`
	ResourceIDs []string `json:"resourceIDs,omitempty"`

	// clientIDs are the client IDs (GUIDs) of identities or applications.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:Pattern=`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`
	ClientIDs []string `json:"clientIDs,omitempty"`

	// tenantIDs are tenants as in the specs of identities of types 1 to 3. Every tenant of the
	// identity, including auxiliary ones, must be listed. They match no identity of type 0, which
	// names no tenant.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	TenantIDs []string `json:"tenantIDs,omitempty"`

	// types are the types of identity: 0, 1, 2 or 3.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:Minimum=0
	// +kubebuilder:validation:items:Maximum=3
	Types []IdentityType `json:"types,omitempty"`

	// authorities are hosts of Entra ID or ADFS that spec.adEndpoint of an identity
	// may name, such as login.microsoftonline.com. An identity without adEndpoint
	// uses the cluster's own authority and matches.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Authorities []string `json:"authorities,omitempty"`

	// audiences are the resources that tokens may be requested for, such as https://vault.azure.net. A
	// trailing slash does not matter. If empty, all are allowed.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	Audiences []string `json:"audiences,omitempty"`
}

// +kubebuilder:object:root=true

// AzureIdentityPolicyList is a list of AzureIdentityPolicy.
type AzureIdentityPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AzureIdentityPolicy `json:"items"`
}
