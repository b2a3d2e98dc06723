// Events about identities.

package events

import (
	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/reason"
)

// IdentityNotAssignable reports on an AzureIdentity that Azure refuses it, why, and what to do,
// once per change. An empty why clears it.
func (e *Events) IdentityNotAssignable(id *v1.AzureIdentity, why string) {
	if e.news(identityKey(id.Namespace, id.Name), why) && why != "" {
		e.warning(reference(id, v1.GroupVersion.String(), "AzureIdentity"), nil, IdentityRefused, actionAssign, "%s", why)
	}
}

// PreassignmentRefused reports on an AzureIdentity why its annotation does not put it on node
// groups, and what to do, once per change. An empty why clears it.
func (e *Events) PreassignmentRefused(id *v1.AzureIdentity, why string) {
	why = reason.NotPreassigned.Text(why)
	if e.news(preassignmentKey(id.Namespace, id.Name), why) && why != "" {
		e.warning(reference(id, v1.GroupVersion.String(), "AzureIdentity"), nil, NotPreassigned, actionAssign,
			"annotation %s is not followed: %s", v1.PreassignAnnotation, why)
	}
}

// BrokerMissing reports on an AzureIdentity of type 3 why it has no broker, and what to do, once
// per change. An empty why clears it.
func (e *Events) BrokerMissing(id *v1.AzureIdentity, why string) {
	if e.news(brokerKey(id.Namespace, id.Name), why) && why != "" {
		e.warning(reference(id, v1.GroupVersion.String(), "AzureIdentity"), nil, NoBroker, actionAssign, "%s", why)
	}
}

// ForgetBroker drops what was reported about the broker of a deleted identity.
func (e *Events) ForgetBroker(namespace, name string) { e.forget(brokerKey(namespace, name)) }

// ForgetIdentity drops what was reported about a deleted identity.
func (e *Events) ForgetIdentity(namespace, name string) { e.forget(identityKey(namespace, name)) }

func identityKey(namespace, name string) string { return "identity/" + namespace + "/" + name }

func preassignmentKey(namespace, name string) string {
	return "preassignment/" + namespace + "/" + name
}

func brokerKey(namespace, name string) string { return "broker/" + namespace + "/" + name }
