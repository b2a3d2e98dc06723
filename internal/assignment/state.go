// How far an identity has come on its way to a pod.

package assignment

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// Refused returns the state of an identity that must not be assigned to a node. Its message has the
// code.
func Refused(why reason.Reason, message string) State {
	return State{Status: v1.StateCreated, Reason: why.Name(), Message: why.Text(message)}
}

// AboutIdentity reports whether a status.reason is about the identity itself rather than the node
// group or a temporary condition.
func AboutIdentity(name string) bool {
	for _, r := range [...]reason.Reason{
		reason.IdentityRefused, reason.IdentityForbidden, reason.LedgerFull, reason.ClientIDMismatch, reason.ClusterIdentity,
	} {
		if r.Name() == name {
			return true
		}
	}
	return false
}

// Need is an identity that a pod needs on its node group.
type Need struct {
	ID identity.ResourceID
	// ClientID is that of the AzureIdentity; it may be empty.
	ClientID string
	// Identity names the AzureIdentity.
	Identity types.NamespacedName
	// Named reports that the policy names this very identity for the pod's namespace.
	Named bool
	// Assigned reports that the pod's object is Assigned already.
	Assigned bool
}

// State is the part of an AzureAssignedIdentity's status that describes how far the identity has
// come, and what blocks it.
type State struct{ Status, Reason, Message string }

// Progress is how far an identity has come on its way to a node group.
type Progress struct {
	State
	// KeepAssigned lets an object that is Assigned stay so: the State is about the node group, and the
	// identity is attached.
	KeepAssigned bool
	// Unknown reports that Azure's answer is not known yet. The State is empty.
	Unknown bool
	// Complaint is a recurring error on the way, for messages to people. It is temporary, so no status
	// contains it.
	Complaint string
}

func stateOf(s v1.AzureAssignedIdentityStatus) State {
	return State{Status: s.Status, Reason: s.Reason, Message: s.Message}
}

// next returns the state that an object should have. says reports whether the object represents its
// pod, node and identity in their current form.
//
// An object that is Assigned stays so while its identity, which another writer detached from the
// node, is being attached again. Changing it to Created and back would cost two writes for every
// pod of a scale set. An object with a refusal keeps it until there is a new result other than "on
// its way".
func next(have State, progress Progress, says bool) State {
	switch {
	case progress.Unknown && (!says || have.Status == "" || have.Status == v1.StateUnassigned):
		return State{Status: v1.StateCreated}
	case progress.Unknown, says && progress.keeps(have):
		return have
	default:
		return progress.State
	}
}

// keeps reports whether an object in the state have stays in it.
func (p Progress) keeps(have State) bool {
	onItsWay := p.Status == v1.StateCreated && p.Reason == ""
	switch have.Status {
	case v1.StateAssigned:
		return onItsWay || p.KeepAssigned
	case v1.StateCreated:
		return onItsWay && have.Reason != reason.NodeNotOnAzure.Name()
	default:
		return false
	}
}

// write sets the state and the matching condition. An object without a problem has no condition,
// which keeps thousands of them small.
func (s State) write(status *v1.AzureAssignedIdentityStatus, now metav1.Time) {
	status.Status, status.Reason, status.Message = s.Status, s.Reason, s.Message
	condition := metav1.Condition{
		Type: v1.ConditionAssigned, Status: metav1.ConditionFalse, LastTransitionTime: now,
		Reason: s.Reason, Message: s.Message,
	}
	if s.Reason == "" {
		if meta.FindStatusCondition(status.Conditions, v1.ConditionAssigned) == nil {
			return
		}
		condition.Reason, condition.Message = s.Status, ""
		if s.Status == v1.StateAssigned {
			condition.Status = metav1.ConditionTrue
		}
	}
	meta.SetStatusCondition(&status.Conditions, condition)
}
