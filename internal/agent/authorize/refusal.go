// The refusals, in words. What a pod reads names only what is its own business:
// objects of its bindings, never those of other namespaces.

package authorize

import (
	"fmt"
	"net/http"
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

const reasonQuarantined = "IdentityQuarantined"

// notFound is what the metadata service says on a machine without identities:
// final to every client, and understood by all of them.
func notFound(r *identity.Refusal) Refusal {
	return Refusal{
		Status: http.StatusBadRequest, Reason: string(r.Reason), Code: "invalid_request",
		Message: "Identity not found", Detail: r.Message,
	}
}

// unbound is for a pod that no binding serves. It may pass, so it is not final.
func unbound(refusals []*identity.Refusal) Refusal {
	r := Refusal{
		Status: http.StatusNotFound, Reason: string(identity.NoBinding), Code: "identity_not_bound",
		Message: "no AzureIdentityBinding grants this pod the identity: create one in the pod's namespace whose selector is the value of the pod's label " + v1.BindingLabel,
	}
	var details []string
	for _, refusal := range refusals {
		r.Reason = string(refusal.Reason)
		details = append(details, refusal.Message)
		if refusal.Reason == identity.NotShared {
			r.Message = refusal.Message // it names what the identity's own spec names
		}
	}
	if missing(refusals) {
		r.Reason = string(identity.IdentityMissing)
		r.Message = "the AzureIdentityBinding that selects this pod names an AzureIdentity that does not exist: create it in the binding's namespace, or correct spec.azureIdentity"
	}
	r.Detail = strings.Join(details, "; ")
	return r
}

func broken(r *identity.Refusal) Refusal {
	return Refusal{Status: http.StatusForbidden, Reason: string(r.Reason), Code: "identity_broken", Message: r.Message}
}

// forbidden is for what the owner of the cluster does not allow.
func forbidden(r *identity.Refusal) Refusal {
	return Refusal{Status: http.StatusForbidden, Reason: string(r.Reason), Code: "identity_forbidden", Message: r.Message}
}

// Audience returns the refusal of a grant that is good for other resources only;
// false when the policy has nothing against this one.
func Audience(g identity.Grant, resource string) (Refusal, bool) {
	if r := g.RefuseAudience(resource); r != nil {
		return forbidden(r), true
	}
	return Refusal{}, false
}

func quarantined(id *v1.AzureIdentity, a arrival) Refusal {
	message := a.message
	if message == "" {
		message = "correct the AzureIdentity or the identity on Azure"
	}
	return Refusal{
		Status: http.StatusForbidden, Reason: reasonQuarantined, Code: "identity_quarantined",
		Message: fmt.Sprintf("identity %s cannot be assigned to this node (%s): %s", nameOf(id), a.reason, message),
	}
}

// late is for an identity that is on its way for too long.
func late(id *v1.AzureIdentity, a arrival, known bool) Refusal {
	r := Refusal{Status: http.StatusNotFound, Reason: "IdentityNotAssigned", Code: "identity_not_assigned"}
	if known {
		r.Message = fmt.Sprintf("identity %s is being assigned to this node (%s): try again, and if it stays so look at the events of the pod and at MIC's log", nameOf(id), a.state)
	} else {
		r.Message = fmt.Sprintf("identity %s is bound to this pod and MIC has not assigned it yet: try again, and if it stays so see whether MIC runs", nameOf(id))
	}
	return r
}

func notYet(id *v1.AzureIdentity) Refusal {
	kind := map[v1.IdentityType]string{
		v1.ServicePrincipal:            "a service principal with a secret",
		v1.ServicePrincipalCertificate: "a service principal with a certificate",
		v1.Federated:                   "a federated identity",
	}[id.Spec.Type]
	return Refusal{
		Status: http.StatusForbidden, Reason: "TypeNotSupported", Code: "identity_type_not_supported",
		Message: fmt.Sprintf("identity %s is of type %d (%s), which this version of the node agent does not serve yet: use a user-assigned managed identity (type 0)",
			nameOf(id), id.Spec.Type, kind),
	}
}
