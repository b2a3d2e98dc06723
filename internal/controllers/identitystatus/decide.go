// What an identity's condition should say.

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

// The condition's reasons that are this package's own. The others are those of
// AzureAssignedIdentities.
const (
	// Recovered: Azure takes the identity again.
	Recovered = "Recovered"
	// NotNeeded: it was refused, and nobody asks Azure any more: who knows.
	NotNeeded = "NotNeeded"
)

// maxMessage is the longest message of a condition; the schema allows 32768.
const maxMessage = 4096

// Decide returns the identity's condition as it should be, nil when it is to be
// left as it is. refused are the assigned identities for which Refused is so;
// assigned and needed are what Tally tells of all of them. An identity without
// trouble has no condition.
func Decide(id *v1.AzureIdentity, refused []*v1.AzureAssignedIdentity, assigned, needed bool) *metav1.Condition {
	have := meta.FindStatusCondition(id.Status.Conditions, v1.ConditionAssignable)
	want := metav1.Condition{Type: v1.ConditionAssignable, ObservedGeneration: id.Generation}
	switch {
	case len(refused) > 0:
		said := worst(refused, have)
		want.Status, want.Reason, want.Message = metav1.ConditionFalse, said.Status.Reason, reason.Cut(said.Status.Message, maxMessage)
		// Azure has said this about the spec that was copied, not about a newer one.
		want.ObservedGeneration = said.Spec.AzureIdentityRef.Generation
	case have == nil || have.Status == metav1.ConditionTrue:
		return nil
	case assigned:
		want.Status, want.Reason, want.Message = metav1.ConditionTrue, Recovered, "Azure assigns the identity again"
	case !needed:
		want.Status, want.Reason = metav1.ConditionUnknown, NotNeeded
		want.Message = "Azure refused the identity, and no pod on a node of Azure's needs it now; it is tried again when one does"
	default:
		return nil // it is on its way again, and Azure has not answered yet
	}
	if have != nil && have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message &&
		have.ObservedGeneration == want.ObservedGeneration {
		return nil
	}
	return &want
}

// Tally tells whether any of an identity's assigned identities says that it is on
// its node, and whether any makes MIC ask Azure about it. One whose node is not
// Azure's does not: no answer is to be waited for.
func Tally(all []*v1.AzureAssignedIdentity) (assigned, needed bool) {
	for _, a := range all {
		assigned = assigned || a.Status.Status == v1.StateAssigned
		needed = needed || a.Status.Reason != reason.NodeNotOnAzure.Name()
	}
	return assigned, needed
}

// worst is the assigned identity that the condition repeats: as long as any says
// what the condition says, that, so that two node groups that word their refusal
// differently do not make it flicker. Of several it is that with the newest spec.
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

// Refused tells whether an assigned identity carries a refusal of the identity
// itself. Troubles of the node group, and those that pass, are not the
// identity's.
func Refused(assigned *v1.AzureAssignedIdentity) bool {
	return assigned.Status.Status != v1.StateAssigned && assignment.AboutIdentity(assigned.Status.Reason)
}
