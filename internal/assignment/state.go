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

// Refused returns the state of an identity that is kept from a node. Its message has the code.
func Refused(why reason.Reason, message string) State {
	return State{Status: v1.StateCreated, Reason: why.Name(), Message: why.Text(message)}
}

// AboutIdentity reports whether a status.reason is about the identity itself, and not about the
// node group or the moment.
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

// Need is an identity that a pod needs of its node group.
type Need struct {
	ID identity.ResourceID
	// ClientID as the AzureIdentity says; may be empty.
	ClientID string
	// Identity names the AzureIdentity.
	Identity types.NamespacedName
	// Named reports that the policy names this very identity for the pod's namespace.
	Named bool
	// Assigned reports that the pod's object says Assigned already.
	Assigned bool
}

// State is the part of an AzureAssignedIdentity's status that says how far the
// identity has come, and what stands in its way.
type State struct{ Status, Reason, Message string }

// Progress is how far an identity has come on its way to a node group.
type Progress struct {
	State
	// KeepAssigned lets an object that says Assigned keep that: the State is about the node
	// group, and the identity is there.
	KeepAssigned bool
	// Unknown reports that Azure has not been asked yet: the State is empty.
	Unknown bool
	// Complaint is what keeps going wrong on the way, for people; it will pass,
	// so no status says it.
	Complaint string
}

func stateOf(s v1.AzureAssignedIdentityStatus) State {
	return State{Status: s.Status, Reason: s.Reason, Message: s.Message}
}

// next is the state that an object should have. says reports whether it stands for
// its pod, node and identity as they are now.
//
// An object that says Assigned keeps it while its identity, which somebody took
// off the node, is put back: saying Created and Assigned again would be two
// writes for every pod of a scale set. One that tells of a refusal keeps that
// until there is something else to tell than "on its way".
func next(have State, progress Progress, says bool) State {
	onItsWay := progress.Status == v1.StateCreated && progress.Reason == ""
	switch {
	case progress.Unknown && (!says || have.Status == "" || have.Status == v1.StateUnassigned):
		return State{Status: v1.StateCreated}
	case progress.Unknown:
		return have
	case says && (onItsWay || progress.KeepAssigned) && have.Status == v1.StateAssigned:
		return have
	case says && onItsWay && have.Status == v1.StateCreated && have.Reason != reason.NodeNotOnAzure.Name():
		return have
	default:
		return progress.State
	}
}

// write sets the state and the condition that goes with it. An object without
// trouble has no condition, which keeps thousands of them small.
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
