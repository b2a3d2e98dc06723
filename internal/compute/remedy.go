// Remedies for refusals: the missing right as a ready command, or what to check.

package compute

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/podid-io/podid/internal/ascii"
)

// remedy returns what an operator can do about it. It is empty if a retry is enough.
func (r *refusal) remedy() string {
	switch {
	case r.notARM():
		return "check the proxy (HTTPS_PROXY, NO_PROXY), the firewall and the endpoints of the cloud"
	case r.status == http.StatusUnauthorized:
		return "the credentials in the cloud config are not accepted: " +
			"check tenantId, aadClientId and aadClientSecret, or the managed identity"
	case r.linked():
		return r.linkedRemedy()
	case ascii.EqualFold(r.code, "AuthorizationFailed"):
		scope := "/subscriptions/" + r.group.SubscriptionID + "/resourceGroups/" + r.group.ResourceGroup
		return "grant the right to read and write the machines of the resource group: " + r.grant("Virtual Machine Contributor", scope)
	case r.locked():
		return "a read-only lock is in the way: remove it from the machine, its resource group or its subscription"
	case len(r.identities) > 0 && r.malformed():
		return "check that the resource ID is right (spec.resourceID of the AzureIdentity), expected: " +
			"/subscriptions/S/resourceGroups/G/providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME"
	case len(r.identities) > 0:
		return "check that the identity exists and that its resource ID is right: az identity show --ids " +
			quote(r.identities[0]) + others(r.identities)
	default:
		return r.whereabouts()
	}
}

// linkedRemedy returns the remedy if a right on the identity is missing.
func (r *refusal) linkedRemedy() string {
	switch {
	case linkedSubscription.MatchString(r.message):
		return "check the subscription in the identity's resource ID: " +
			"it has to exist, and in the tenant of the identity that podid runs as"
	case len(r.identities) > 0:
		return "check that the identity exists, and grant the right to assign it: " +
			r.grant("Managed Identity Operator", r.identities[0]) + others(r.identities)
	default:
		return "check that the identity exists, " +
			"and grant the role Managed Identity Operator on it to the identity that podid runs as"
	}
}

// whereabouts returns the remedy if the subscription or resource group does not exist. Every write
// follows a read of the node group, so a write can only miss an identity.
func (r *refusal) whereabouts() string {
	reading := r.act == reads
	switch code := ascii.ToLower(r.code); {
	case code == "subscriptionnotfound" && reading:
		return "check the subscription in the node's spec.providerID, and that the credential of podid (tenantId, aadClientId " +
			"or the managed identity) belongs to that subscription's tenant"
	case code == "resourcegroupnotfound" && reading:
		return "check the resource group in the node's spec.providerID: it was deleted with its machines, or is of another " +
			"subscription than the ID says"
	case code == "subscriptionnotfound", code == "resourcegroupnotfound":
		return "the machine is there: check the subscription and the resource group in the identity's resource ID " +
			"(spec.resourceID of the AzureIdentity)"
	default:
		return ""
	}
}

// linked reports whether ARM refused because of a missing right on the identity, not on the
// machine.
func (r *refusal) linked() bool {
	return ascii.EqualFold(r.code, "LinkedAuthorizationFailed")
}

// malformed reports whether ARM could not parse an identity's resource ID.
func (r *refusal) malformed() bool {
	switch ascii.ToLower(r.code) {
	case "linkedinvalidpropertyid", "invalidresourceid", "invalidparameter", "invalidrequestcontent":
		return true
	default:
		return false
	}
}

// grant returns the command that grants a role. The assignee stays a placeholder because logs and
// objects never contain whole client IDs.
func (r *refusal) grant(role, scope string) string {
	return fmt.Sprintf("az role assignment create --role %q --assignee %s --scope %s", role, r.assignee(), quote(scope))
}

// objectID and callerID match how ARM names the refused principal, by principal ID and by client
// ID.
var (
	objectID = regexp.MustCompile(`(?i)\bobject id '([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}'`)
	callerID = regexp.MustCompile(`(?i)\bthe client '([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}'`)
)

// assignee returns the principal without the right: the one that ARM names, or podid's client ID.
func (r *refusal) assignee() string {
	if found := objectID.FindStringSubmatch(r.message); found != nil {
		return "<principal " + found[1] + "…>"
	}
	if found := callerID.FindStringSubmatch(r.message); found != nil {
		return "<client " + found[1] + "…>"
	}
	if len(r.runsAs) > 8 {
		return "<client " + r.runsAs[:8] + "…>"
	}
	return "<the identity that podid runs as>"
}

// harmless matches text without special meaning to a shell within double quotes. The author of an
// AzureIdentity chooses the resource ID, but another person pastes the command.
var harmless = regexp.MustCompile(`^[\pL\pN/._() -]+$`)

// quote quotes a resource ID for the command.
func quote(id string) string {
	if !harmless.MatchString(id) {
		return "<resource ID>"
	}
	return `"` + id + `"`
}

// others returns the note that the command applies to further identities.
func others(bad []string) string {
	if len(bad) < 2 {
		return ""
	}
	return fmt.Sprintf(", and the same for %d more", len(bad)-1)
}

// Removal returns the command with which an operator removes identities from a node group. podid
// only removes identities that it attached.
func Removal(group Group, resourceIDs []string) string {
	command := "az vm identity remove"
	if group.Kind == VMSS {
		command = "az vmss identity remove"
	}
	quoted := make([]string, 0, len(resourceIDs))
	for _, id := range slices.Sorted(slices.Values(resourceIDs)) {
		quoted = append(quoted, quote(id))
	}
	return fmt.Sprintf("%s --resource-group %s --name %s --identities %s", command, shellWord(group.ResourceGroup), shellWord(group.Name), strings.Join(quoted, " "))
}

// shellWord quotes a name for a shell: names of resource groups may contain parentheses.
func shellWord(name string) string {
	if strings.ContainsAny(name, "() ") {
		return quote(name)
	}
	return name
}
