// The refusals and their messages. A message to a pod names only objects of its own bindings, never
// those of other namespaces.

package authorize

import (
	"errors"
	"net/http"
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/reason"
)

// notFound returns the response of the metadata service on a machine without identities. Every
// client understands it and treats it as final.
func notFound(r *reason.Refusal) *reason.Refusal {
	return r.Reason.Refuse("Identity not found").Because(r)
}

// unbound refuses a pod to which no binding grants an identity. A binding may be added later, so
// the refusal is not final.
func unbound(refusals []*reason.Refusal) *reason.Refusal {
	why, message := reason.NoBinding, "no AzureIdentityBinding grants this pod the identity: create one in the pod's namespace whose "+
		"selector is the value of the pod's label "+v1.BindingLabel
	details := make([]string, 0, len(refusals))
	for _, r := range refusals {
		details = append(details, r.Message)
		if r.Reason.Status() == http.StatusNotFound {
			why = r.Reason
		}
		if r.Reason == reason.NotShared {
			message = r.Message // it names what the identity's own spec names
		}
	}
	if missing(refusals) {
		why, message = reason.IdentityMissing, "the AzureIdentityBinding that selects this pod names an AzureIdentity that does not exist: "+
			"create it in the binding's namespace, or correct spec.azureIdentity"
	}
	return why.Refuse("%s", message).Because(errors.New(strings.Join(details, "; ")))
}

func quarantined(id *v1.AzureIdentity, a arrival) *reason.Refusal {
	message := a.message
	if message == "" {
		message = "correct the AzureIdentity or the identity on Azure"
	}
	return reason.Quarantined.Refuse("identity %s cannot be assigned to this node (%s): %s", nameOf(id), a.reason, message).About(id, nil)
}

// late refuses an identity that has not been assigned in time.
func late(id *v1.AzureIdentity, a arrival, known bool) *reason.Refusal {
	if known {
		return reason.NotAssigned.Refuse("identity %s is being assigned to this node (%s): try again, and if it stays so look at the Events of the "+
			"pod and at MIC's log", nameOf(id), a.state).About(id, nil)
	}
	return reason.NotAssigned.Refuse("identity %s is bound to this pod and MIC has not assigned it yet: try again, and if it stays so "+
		"check that MIC runs", nameOf(id)).About(id, nil)
}

func unsupported(id *v1.AzureIdentity) *reason.Refusal {
	return reason.TypeNotSupported.Refuse("identity %s is of type %d, for which this node agent has no source of tokens: use an identity of "+
		"another type, or upgrade the node agent", nameOf(id), id.Spec.Type).About(id, nil)
}
