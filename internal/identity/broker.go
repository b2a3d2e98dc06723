// Brokers: the ServiceAccounts that represent federated identities at Entra ID.

package identity

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/cloud"
	"github.com/podid-io/podid/internal/reason"
)

// DefaultBrokerNamespace is the namespace of the brokers if the operator sets no other.
const DefaultBrokerNamespace = "podid-brokers"

// maxBrokerName is the longest name of a ServiceAccount, a DNS subdomain.
const maxBrokerName = 253

// Broker returns the name of the ServiceAccount, in the namespace of all brokers, whose tokens
// represent a federated identity. It is <namespace>.<name> of the identity, or of the one that it
// is shared from.
//
// The name is unique, since a namespace has no dot in its name. A tenant cannot choose the broker
// of another identity: a shared identity's broker counts only in a Grant, which the rules make only
// with the owner's consent. So call it only for granted identities.
//
// The broker is part of what distinguishes tokens in the cache. The error message includes the
// remedy.
func Broker(id *v1.AzureIdentity) (string, error) {
	if id.Spec.Type != v1.Federated {
		return "", fmt.Errorf("identity %s has type %d: only type 3 (federated) has a broker", key(id), id.Spec.Type)
	}
	namespace, name := id.Namespace, id.Name
	if Shared(id) {
		namespace, name = id.Spec.SharedFrom.Namespace, id.Spec.SharedFrom.Name
	}
	broker := namespace + "." + name
	switch {
	case namespace == "" || name == "" || strings.Contains(namespace, "."):
		return "", fmt.Errorf("identity %s has no broker: %q is not <namespace>.<name>", key(id), broker)
	case len(broker) > maxBrokerName:
		return "", fmt.Errorf("identity %s has no broker: %s is %d characters long and a ServiceAccount's name has at most %d: "+
			"create the identity under a shorter name", key(id), broker, len(broker), maxBrokerName)
	}
	return broker, nil
}

// BrokerSubject returns the subject of a broker's tokens, which the federated credential on Azure
// must name. namespace is that of all brokers.
func BrokerSubject(namespace, broker string) string {
	return "system:serviceaccount:" + namespace + ":" + broker
}

// FederatedAudience returns the audience of the identity's broker tokens. It is the one in the
// spec, else that of the cloud of the spec's adEndpoint, else that of clusterCloud, the cloud that
// the cluster runs in (such as AzurePublicCloud, in any case). Unknown clouds count as public.
func FederatedAudience(id *v1.AzureIdentity, clusterCloud string) string {
	if id.Spec.FederatedAudience != "" {
		return id.Spec.FederatedAudience
	}
	found, ok := cloud.Named(clusterCloud)
	if id.Spec.ADEndpoint != "" {
		found, ok = cloud.OfAuthority(host(id.Spec.ADEndpoint))
	}
	if !ok {
		return cloud.ExchangeAudiences()[0]
	}
	return found.ExchangeAudience
}

// host returns the host name of an https URL in lower case, as the agent connects to it: without
// user name and port. It returns "" for anything else.
func host(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil || !ascii.EqualFold(u.Scheme, "https") {
		return ""
	}
	return ascii.ToLower(u.Hostname())
}

// Shared reports whether the identity uses the broker of another one.
func Shared(id *v1.AzureIdentity) bool { return id.Spec.SharedFrom != v1.IdentityReference{} }

// consent returns nil if the owner of an identity lets id use its broker, else the refusal. owner
// is nil when there is no identity of that name.
//
// A user of the broker can act as the owner's identity at Azure. The owner must therefore have
// agreed on the object itself, and only for the very same identity. A borrower must not be able to
// have the broker's token sent elsewhere (adEndpoint), for another application, or in another
// tenant.
func consent(id, owner *v1.AzureIdentity) *reason.Refusal {
	from := id.Spec.SharedFrom
	// Reject a lookup that returned a different object. To borrowers that it does not allow, an owner
	// looks the same as a missing one, so that they cannot find out what others have.
	if owner == nil || owner.Namespace != from.Namespace || owner.Name != from.Name || !owner.DeletionTimestamp.IsZero() ||
		!AllowsNamespace(owner, id.Namespace) {
		return refuseNotShared(id, fmt.Sprintf("does not exist or does not allow namespace %s: its owner can, with the annotation %s: %s",
			id.Namespace, v1.AllowedNamespacesAnnotation, id.Namespace))
	}
	switch {
	case owner.Spec.Type != v1.Federated:
		return refuseNotShared(id, "is not of type 3: only federated identities can be shared")
	case Shared(owner):
		return refuseNotShared(id, "is itself shared from another one: name that one")
	}
	if field := differs(id, owner); field != "" {
		return refuseNotShared(id, "has another spec."+field+": both must say the same, since a share is for one identity of Azure's")
	}
	return nil
}

// AllowsNamespace reports whether the owner shares the identity with a namespace. An identity
// annotated as namespaced serves only its own namespace, regardless of its other fields.
func AllowsNamespace(owner *v1.AzureIdentity, namespace string) bool {
	if Namespaced(owner) || namespace == "" {
		return false
	}
	for allowed := range strings.SplitSeq(owner.Annotations[v1.AllowedNamespacesAnnotation], ",") {
		if allowed = strings.TrimSpace(allowed); allowed == namespace || allowed == v1.AllowedNamespacesAll {
			return true
		}
	}
	return false
}

// differs returns the first field that differs between id and owner, of those that determine what a
// broker's token is exchanged for. It returns "" if there is none.
func differs(id, owner *v1.AzureIdentity) string {
	a, b := &id.Spec, &owner.Spec
	switch {
	case !ascii.EqualFold(a.ClientID, b.ClientID):
		return "clientID"
	case !ascii.EqualFold(a.TenantID, b.TenantID):
		return "tenantID"
	case strings.TrimSuffix(a.ADEndpoint, "/") != strings.TrimSuffix(b.ADEndpoint, "/"):
		return "adEndpoint"
	case a.FederatedAudience != b.FederatedAudience:
		return "federatedAudience"
	}
	for _, tenant := range a.AuxiliaryTenantIDs {
		if !slices.Contains(b.AuxiliaryTenantIDs, tenant) {
			return "auxiliaryTenantIDs"
		}
	}
	return ""
}

func refuseNotShared(id *v1.AzureIdentity, what string) *reason.Refusal {
	from := id.Spec.SharedFrom
	return reason.NotShared.Refuse(
		"AzureIdentity %s is shared from AzureIdentity %s/%s, which %s", key(id), from.Namespace, from.Name, what).About(id, nil)
}
