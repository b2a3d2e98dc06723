// The document that describes a world, as people write it.

package world

import (
	"encoding/json"
	"fmt"
	"time"
)

// Document is the serialized form of a world, in the --world file and the control API. Identifiers
// (GUIDs, names, resource IDs) are case-insensitive, as on Azure.
type Document struct {
	// Location is the default Azure region.
	Location string `json:"location,omitempty"`
	// Tenants are the directories; the first is the default.
	Tenants []Tenant `json:"tenants,omitempty"`
	// Subscriptions contain the machines and identities; the first is the default.
	Subscriptions []Subscription `json:"subscriptions,omitempty"`
	// Identities are the user-assigned managed identities that exist.
	Identities []Identity `json:"identities,omitempty"`
	// Applications are the service principals that can sign in at Entra ID.
	Applications []Application `json:"applications,omitempty"`
	// Issuers are the external token issuers (such as a Kubernetes cluster) whose keys Entra ID knows.
	Issuers []Issuer `json:"issuers,omitempty"`
	// VirtualMachines are single VMs.
	VirtualMachines []Machine `json:"virtualMachines,omitempty"`
	// ScaleSets are VM scale sets with their instances.
	ScaleSets []Machine `json:"scaleSets,omitempty"`
	// RoleAssignments are the permissions on ARM. They apply only if settings.authorization is
	// "roles".
	RoleAssignments []RoleAssignment `json:"roleAssignments,omitempty"`
	// Resources limits the resources (audiences) of tokens. Empty: any URI or GUID.
	Resources []string `json:"resources,omitempty"`
	// Settings configure the emulator; see DefaultSettings.
	Settings Settings `json:"settings"`
	// Faults are active from the start.
	Faults []Fault `json:"faults,omitempty"`
}

// TenantADFS is the tenant of applications known to AD FS and not to Entra ID. It needs no entry in
// the list of tenants.
const TenantADFS = "adfs"

// Tenant is an Entra ID directory.
type Tenant struct {
	ID     string `json:"id"`
	Domain string `json:"domain,omitempty"` // accepted instead of the ID in Entra's paths
}

// Subscription is an Azure subscription.
type Subscription struct {
	ID       string `json:"id"`
	Name     string `json:"name,omitempty"`
	TenantID string `json:"tenantID,omitempty"`
}

// Identity is a user-assigned managed identity.
type Identity struct {
	// ResourceID is its full ARM ID,
	// /subscriptions/…/providers/Microsoft.ManagedIdentity/userAssignedIdentities/…
	ResourceID  string `json:"resourceID"`
	ClientID    string `json:"clientID"`
	PrincipalID string `json:"principalID"`
	TenantID    string `json:"tenantID,omitempty"`
	// FederatedCredentials let tokens of external issuers sign in as this identity, without a VM.
	FederatedCredentials []FederatedCredential `json:"federatedCredentials,omitempty"`
	// Unassignable makes every write that would add it to a machine fail, with an error that names no
	// identity.
	Unassignable bool `json:"unassignable,omitempty"`
}

// Application is an app registration together with its service principal.
type Application struct {
	Name     string `json:"name,omitempty"`
	ClientID string `json:"clientID"`
	// PrincipalID is the object ID of the service principal: the "oid" of its tokens.
	PrincipalID string `json:"principalID"`
	TenantID    string `json:"tenantID,omitempty"`
	// OtherTenantIDs are the further tenants of a multi-tenant application. Its object ID is the same
	// in all of them here.
	OtherTenantIDs []string `json:"otherTenantIDs,omitempty"`
	// Secret is the client secret; empty if it has none.
	Secret string `json:"secret,omitempty"`
	// SecretExpires, if set, is the time after which the secret is refused (AADSTS7000222).
	SecretExpires *time.Time `json:"secretExpires,omitempty"`
	// Certificate is a PEM certificate whose key may sign client assertions.
	Certificate          string                `json:"certificate,omitempty"`
	FederatedCredentials []FederatedCredential `json:"federatedCredentials,omitempty"`
	// AccessTokenVersion is the form of the tokens issued *for* this application as a resource (its
	// clientID or api://clientID): 1 (default) or 2.
	AccessTokenVersion int `json:"accessTokenVersion,omitempty"`
}

// FederatedCredential trusts tokens of one issuer for one subject.
type FederatedCredential struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
	// Audience defaults to api://AzureADTokenExchange.
	Audience string `json:"audience,omitempty"`
}

// Issuer describes where to find the keys of an external token issuer: exactly one of JWKS,
// JWKSFile and JWKSURL.
type Issuer struct {
	Issuer   string `json:"issuer"`
	JWKS     string `json:"jwks,omitempty"`     // the key set itself, as JSON text
	JWKSFile string `json:"jwksFile,omitempty"` // read again for every assertion
	JWKSURL  string `json:"jwksURL,omitempty"`  // fetched again for every assertion
	CAFile   string `json:"caFile,omitempty"`   // for an https JWKSURL with a private CA
}

// Machine is a VM or a scale set, which ARM assigns identities to.
type Machine struct {
	SubscriptionID string            `json:"subscriptionID,omitempty"`
	ResourceGroup  string            `json:"resourceGroup"`
	Name           string            `json:"name"`
	Location       string            `json:"location,omitempty"`
	Tags           map[string]string `json:"tags,omitempty"`
	// SystemAssigned is the system-assigned identity, if there is one.
	SystemAssigned *SystemIdentity `json:"systemAssigned,omitempty"`
	// Identities are the resource IDs of its user-assigned identities.
	Identities []string `json:"identities,omitempty"`
	// Addresses of a VM: requests to IMDS from one of them are attributed to this VM. Not for scale
	// sets.
	Addresses []string `json:"addresses,omitempty"`
	// Instances of a scale set. Not for VMs.
	Instances []Instance `json:"instances,omitempty"`
}

// Instance is one VM of a scale set.
type Instance struct {
	ID        string   `json:"id"`             // the instance ID, "0"
	Name      string   `json:"name,omitempty"` // the computer name; default <scale set>_<id>
	Addresses []string `json:"addresses,omitempty"`
}

// SystemIdentity is the system-assigned identity of a machine.
type SystemIdentity struct {
	ClientID    string `json:"clientID"`
	PrincipalID string `json:"principalID"`
}

// RoleAssignment grants a principal permissions on a scope.
type RoleAssignment struct {
	PrincipalID string `json:"principalID"`
	// Scope is an ARM ID or a prefix of one at a segment boundary; "/" is everything.
	Scope string `json:"scope"`
	// Role is Owner, Contributor, Reader, "Virtual Machine Contributor" or "Managed Identity
	// Operator".
	Role string `json:"role,omitempty"`
	// Actions are ARM actions instead of a role, with * as a wildcard.
	Actions []string `json:"actions,omitempty"`
}

// Duration is a time.Duration that is encoded as "1.5s"; a bare number means seconds.
type Duration time.Duration

// MarshalJSON encodes the duration as text.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON decodes "1.5s" or a number of seconds. It rejects negative values.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case float64:
		const most = float64(1<<63-1) / float64(time.Second) / 2
		if v < 0 || v > most {
			return fmt.Errorf("duration %v: give a number of seconds that is not negative", v)
		}
		*d = Duration(v * float64(time.Second))
	case string:
		parsed, err := time.ParseDuration(v)
		if err != nil || parsed < 0 {
			return fmt.Errorf("duration %q: write it like 1.5s or 200ms, not negative", v)
		}
		*d = Duration(parsed)
	default:
		return fmt.Errorf("duration %s: write it like 1.5s or 200ms", data)
	}
	return nil
}
