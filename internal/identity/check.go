// Minimum requirements for an identity to be usable. The schema's rules check the same at kubectl
// apply. This check covers objects that are older than those rules.

package identity

import (
	"fmt"
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/reason"
)

// Check returns nil when the identity has the fields that its type needs, else a refusal with
// reason IdentityBroken.
//
// It requires only what every token needs, less than the schema does: an object that worked before
// the schema had rules must continue to work.
func Check(id *v1.AzureIdentity) *reason.Refusal {
	switch id.Spec.Type {
	case v1.UserAssignedMSI:
		if _, err := ParseResourceID(id.Spec.ResourceID); err != nil {
			return refuseBroken(id, "spec.resourceID: "+err.Error())
		}
		return nil
	case v1.ServicePrincipal, v1.ServicePrincipalCertificate:
		return missing(id, "tenantID", id.Spec.TenantID, "clientID", id.Spec.ClientID,
			"clientPassword.name", id.Spec.ClientPassword.Name)
	case v1.Federated:
		if refusal := missing(id, "tenantID", id.Spec.TenantID, "clientID", id.Spec.ClientID); refusal != nil {
			return refusal
		}
		if _, err := Broker(id); err != nil {
			return reason.IdentityBroken.Refuse("%v", err).About(id, nil)
		}
		return nil
	default:
		return refuseBroken(id, fmt.Sprintf(
			"spec.type %d is unknown: use 0 (user-assigned managed identity), 1 (client secret), 2 (certificate) or 3 (federated)",
			id.Spec.Type))
	}
}

// check is Check with the cluster's rules applied.
func (r Rules) check(id *v1.AzureIdentity) *reason.Refusal {
	if r.Managed && id.Spec.Type == v1.UserAssignedMSI && strings.TrimSpace(id.Spec.ClientID) != "" {
		return nil // the metadata service needs no more
	}
	if refusal := Check(id); refusal != nil {
		return refusal
	}
	elsewhere := id.Spec.ClientPassword.Namespace
	withSecret := id.Spec.Type == v1.ServicePrincipal || id.Spec.Type == v1.ServicePrincipalCertificate
	if withSecret && (r.ForceNamespaced || Namespaced(id)) && elsewhere != "" && elsewhere != id.Namespace {
		// Permission to write identities in one namespace must not give access to the Secrets of another.
		return refuseBroken(id, fmt.Sprintf(
			"spec.clientPassword names a Secret in namespace %s, and identities serve their own namespace only: move the Secret to namespace %s",
			elsewhere, id.Namespace))
	}
	return nil
}

// missing returns a refusal that names all fields without a value, nil when there are none. pairs
// alternates field and value.
func missing(id *v1.AzureIdentity, pairs ...string) *reason.Refusal {
	var fields []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if strings.TrimSpace(pairs[i+1]) == "" {
			fields = append(fields, "spec."+pairs[i])
		}
	}
	if len(fields) == 0 {
		return nil
	}
	return refuseBroken(id, fmt.Sprintf("type %d needs %s", id.Spec.Type, strings.Join(fields, " and ")))
}
