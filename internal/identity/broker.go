// Brokers: the ServiceAccounts that stand for federated identities at Entra ID.

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

// DefaultBrokerNamespace is where brokers live unless an operator says otherwise.
const DefaultBrokerNamespace = "podid-brokers"

// maxBrokerName is the longest name a ServiceAccount can have: a DNS subdomain's.
const maxBrokerName = 253

// Broker returns the name of the ServiceAccount, in the namespace of all
// brokers, whose tokens stand for a federated identity: <namespace>.<name> of
// the identity, or of the one that it is shared from. No two identities have the
// same one, since a namespace has no dot in its name, and nobody can choose
// another's: that of a shared identity counts only in a Grant, which the rules
// make only with the owner's consent. So ask it about granted identities.
//
// It is part of what makes a token differ. The error says what to do.
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

// BrokerSubject is the subject of a broker's tokens, which the federated
// credential on Azure must name. namespace is that of all brokers.
func BrokerSubject(namespace, broker string) string {
	return "system:serviceaccount:" + namespace + ":" + broker
}

// FederatedAudience is the audience of the identity's broker tokens: what its
// spec says, else that of the cloud of its spec's adEndpoint, else that of the
// cloud the cluster runs in (such as AzurePublicCloud, in any case; unknown ones
// count as public).
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

// host returns the host name of an https URL in lower case, as the agent connects to
// it: without user name and port. It returns "" for what is no URL.
func host(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil || !ascii.EqualFold(u.Scheme, "https") {
		return ""
	}
	return ascii.ToLower(u.Hostname())
}

// Shared reports whether the identity uses the broker of another one.
func Shared(id *v1.AzureIdentity) bool { return id.Spec.SharedFrom != v1.IdentityReference{} }

// consent reports whether the owner of an identity lets another identity use its
// broker: nil, or why not. owner is nil when there is none of that name.
//
// Whoever uses the broker can be the owner's identity at Azure, so the owner must
// have said so, on the object itself, and only for the very same identity: a
// borrower must not be able to have the broker's token sent elsewhere
// (adEndpoint), for another application, or in another tenant.
func consent(id, owner *v1.AzureIdentity) *reason.Refusal {
	from := id.Spec.SharedFrom
	// An answer to another question is no answer. To those it does not allow, an
	// owner is as good as none: nobody is to find out what others have.
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

// AllowsNamespace reports whether the owner shares the identity with a namespace.
// An identity annotated as namespaced serves its own namespace only, whatever
// else it says.
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

// differs names the first field, of those that say what a broker's token is
// exchanged for, that is not the owner's.
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
