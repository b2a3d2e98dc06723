// What a pod's condition should say.

package readiness

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// The condition's reasons that are this package's own. The others are those of
// AzureAssignedIdentities and of reason.Refusal.
const (
	// Assigned: all identities that the pod's bindings grant are on its node.
	Assigned = "Assigned"
	// NoIdentity: nothing is refused any more, and nothing granted either.
	NoIdentity = "NoIdentity"
	// WaitingForIdentity: at least one identity is on its way.
	WaitingForIdentity = "WaitingForIdentity"
	// HostNetwork: the pod cannot be told from its node.
	HostNetwork = "HostNetwork"
)

// maxMessage keeps a message fit to read; the API server would take 32 KiB.
const maxMessage = 2048

// hostNetworkMessage says what to do about a pod on its host's network.
const hostNetworkMessage = "the pod uses the host's network and is given no identity: run it with hostNetwork: false, " +
	"or take the readiness gate " + v1.PodConditionAssigned + " off"

// Pod is what the decision about one pod starts from.
type Pod struct {
	// Gated says that the pod names the condition in spec.readinessGates.
	Gated bool
	// Have is the condition that the pod has, nil when it has none.
	Have *corev1.PodCondition
	// NodeName is empty until the pod has a node.
	NodeName    string
	HostNetwork bool
	// Grants and Refusals are what identity.Rules say about the pod.
	Grants   []identity.Grant
	Refusals []*reason.Refusal
	// Assigned are the assigned identities that name the pod.
	Assigned []*v1.AzureAssignedIdentity
}

// Verdict is what the condition should say.
type Verdict struct {
	Status          corev1.ConditionStatus
	Reason, Message string
	// Passing says that this is how every pod begins, and likely over in a
	// moment.
	Passing bool
}

// Says tells whether a condition says what the verdict does.
func (v Verdict) Says(have *corev1.PodCondition) bool {
	return have != nil && have.Status == v.Status && have.Reason == v.Reason && have.Message == v.Message
}

// Decide returns what the condition should say, false when it is to be left as
// it is.
//
// A pod with the gate always has a condition once it has a node: True when every
// identity that its bindings grant is on that node. A pod without the gate gets
// one only when an identity of its is refused; it stays False while the identity
// is on its way again, and turns True when everything is there, or when nothing
// is granted any more.
func Decide(pod Pod) (Verdict, bool) {
	if pod.NodeName == "" {
		return Verdict{}, false // a condition that is missing is not True either
	}
	now := pod.now()
	if pod.Gated || now.Status == corev1.ConditionFalse && refuses(now.Reason) {
		return now, true
	}
	if pod.Have == nil {
		return Verdict{}, false
	}
	if len(pod.Grants) == 0 {
		return Verdict{Status: corev1.ConditionTrue, Reason: NoIdentity}, true
	}
	return now, now.Status == corev1.ConditionTrue
}

// now is how far the pod's identities are.
func (p Pod) now() Verdict {
	if p.HostNetwork {
		return Verdict{Status: corev1.ConditionFalse, Reason: HostNetwork, Message: reason.HostNetwork.Text(hostNetworkMessage)}
	}
	if len(p.Grants) == 0 {
		return refused(p.Refusals)
	}
	var waiting, troubles []string
	worst := ""
	for _, grant := range p.Grants {
		name := grant.Identity.Namespace + "/" + grant.Identity.Name
		found := p.find(grant.Identity)
		switch {
		case found == nil || found.Status.Status != v1.StateAssigned && found.Status.Reason == "":
			waiting = append(waiting, name)
		case found.Status.Status != v1.StateAssigned:
			// The first by precedence gives the reason, unless a later one is
			// refused for good and it is not.
			if worst == "" || !refuses(worst) && refuses(found.Status.Reason) {
				worst = found.Status.Reason
			}
			troubles = append(troubles, fmt.Sprintf("identity %s: %s", name, found.Status.Message))
		}
	}
	switch {
	case len(troubles) > 0:
		return Verdict{Status: corev1.ConditionFalse, Reason: worst, Message: reason.Cut(strings.Join(troubles, "; "), maxMessage)}
	case len(waiting) > 0:
		return Verdict{
			Status: corev1.ConditionFalse, Reason: WaitingForIdentity, Passing: true,
			Message: reason.Cut("not yet on node "+p.NodeName+": "+strings.Join(waiting, ", "), maxMessage),
		}
	}
	return Verdict{Status: corev1.ConditionTrue, Reason: Assigned}
}

// find returns the assigned identity of an identity on the pod's node, as that
// identity is now; nil when there is none.
func (p Pod) find(id *v1.AzureIdentity) *v1.AzureAssignedIdentity {
	at := slices.IndexFunc(p.Assigned, func(a *v1.AzureAssignedIdentity) bool {
		ref := a.Spec.AzureIdentityRef
		return a.DeletionTimestamp.IsZero() && a.Spec.NodeName == p.NodeName && ref != nil &&
			ref.Namespace == id.Namespace && ref.Name == id.Name && ref.UID == id.UID &&
			ref.Spec.Type == id.Spec.Type && ascii.EqualFold(ref.Spec.ResourceID, id.Spec.ResourceID)
	})
	if at < 0 {
		return nil
	}
	return p.Assigned[at]
}

// refused is the verdict about a pod that is granted nothing.
func refused(refusals []*reason.Refusal) Verdict {
	if len(refusals) == 0 {
		return Verdict{Status: corev1.ConditionFalse, Reason: reason.NoBinding.Name(), Passing: true}
	}
	messages := make([]string, 0, len(refusals))
	for _, r := range refusals {
		messages = append(messages, r.Text())
	}
	slices.Sort(messages) // bindings come in no order, and the condition must not flicker
	first := slices.MinFunc(refusals, func(a, b *reason.Refusal) int { return strings.Compare(a.Message, b.Message) })
	return Verdict{
		Status: corev1.ConditionFalse, Reason: first.Reason.Name(), Message: reason.Cut(strings.Join(messages, "; "), maxMessage),
		// Pod, binding and identity are often applied together.
		Passing: first.Reason == reason.NoBinding || first.Reason == reason.IdentityMissing || first.Reason == reason.NotShared,
	}
}

// refuses reports whether the status.reason of an assigned identity is a refusal, which a person
// has to fix, and no trouble that passes by itself.
func refuses(reason string) bool {
	return assignment.AboutIdentity(reason) || strings.HasPrefix(reason, "Node")
}
