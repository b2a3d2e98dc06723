// The decision what an identity's condition should be.

package identitystatus

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/reason"
)

// The condition's reasons that only this package uses. The others are those of
// AzureAssignedIdentities.
const (
	// Recovered means that Azure accepts the identity again.
	Recovered = "Recovered"
	// NotNeeded means that Azure refused the identity, and that MIC no longer needs it, so that its
	// state is unknown.
	NotNeeded = "NotNeeded"
)

// maxMessage is the longest message of a condition; the schema allows 32768.
const maxMessage = 4096

// Decide returns the desired condition of the identity, or nil to leave it unchanged. refused are
// the assigned identities for which Refused is true. assigned and needed are the results of Tally
// for all of them. An identity without problems has no condition.
func Decide(id *v1.AzureIdentity, refused []*v1.AzureAssignedIdentity, assigned, needed bool) *metav1.Condition {
	have := meta.FindStatusCondition(id.Status.Conditions, v1.ConditionAssignable)
	want := metav1.Condition{Type: v1.ConditionAssignable, ObservedGeneration: id.Generation}
	switch {
	case len(refused) > 0:
		said := worst(refused, have)
		want.Status, want.Reason, want.Message = metav1.ConditionFalse, said.Status.Reason, reason.Cut(said.Status.Message, maxMessage)
		// Azure's refusal is about the spec in the copy, not about a newer one.
		want.ObservedGeneration = said.Spec.AzureIdentityRef.Generation
	case have == nil || have.Status == metav1.ConditionTrue:
		return nil
	case assigned:
		want.Status, want.Reason, want.Message = metav1.ConditionTrue, Recovered, "Azure assigns the identity again"
	case !needed:
		want.Status, want.Reason = metav1.ConditionUnknown, NotNeeded
		want.Message = "Azure refused the identity, and no pod on a node of Azure's needs it now; it is tried again when one does"
	default:
		return nil // it is in progress again, and Azure has not answered yet
	}
	if have != nil && have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message &&
		have.ObservedGeneration == want.ObservedGeneration {
		return nil
	}
	return &want
}

// Tally reports whether any of an identity's assigned identities is Assigned, and whether any makes
// MIC ask Azure about it. An assigned identity on a node outside Azure does not: no answer will
// come.
func Tally(all []*v1.AzureAssignedIdentity) (assigned, needed bool) {
	for _, a := range all {
		assigned = assigned || a.Status.Status == v1.StateAssigned
		needed = needed || a.Status.Reason != reason.NodeNotOnAzure.Name()
	}
	return assigned, needed
}

// worst returns the assigned identity that the condition repeats. It prefers one that matches the
// current condition, so that different messages of two node groups do not make the condition flap.
// Among several it returns the one with the newest spec.
func worst(refused []*v1.AzureAssignedIdentity, have *metav1.Condition) *v1.AzureAssignedIdentity {
	said := func(a *v1.AzureAssignedIdentity) int {
		if have != nil && a.Status.Reason == have.Reason && reason.Cut(a.Status.Message, maxMessage) == have.Message {
			return 0
		}
		return 1
	}
	return slices.MinFunc(refused, func(a, b *v1.AzureAssignedIdentity) int {
		return cmp.Or(
			cmp.Compare(said(a), said(b)),
			cmp.Compare(b.Spec.AzureIdentityRef.Generation, a.Spec.AzureIdentityRef.Generation),
			cmp.Compare(a.Status.Reason, b.Status.Reason),
			cmp.Compare(a.Status.Message, b.Status.Message),
		)
	})
}

// Refused reports whether an assigned identity carries a refusal of the identity itself. Problems
// of the node group and transient errors do not count.
func Refused(assigned *v1.AzureAssignedIdentity) bool {
	return assigned.Status.Status != v1.StateAssigned && assignment.AboutIdentity(assigned.Status.Reason)
}
