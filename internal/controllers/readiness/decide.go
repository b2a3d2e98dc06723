// The decision what a pod's condition should be.

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

// The condition's reasons that only this package uses. The others are those of
// AzureAssignedIdentities and of reason.Refusal.
const (
	// Assigned means that all identities granted by the pod's bindings are on its node.
	Assigned = "Assigned"
	// NoIdentity means that nothing is refused anymore, and nothing is granted.
	NoIdentity = "NoIdentity"
	// WaitingForIdentity means that at least one identity is in progress.
	WaitingForIdentity = "WaitingForIdentity"
	// HostNetwork means that the pod shares its node's IP address.
	HostNetwork = "HostNetwork"
)

// maxMessage keeps messages readable. The API server would accept 32 KiB.
const maxMessage = 2048

// hostNetworkMessage is the message for a pod on its node's network.
const hostNetworkMessage = "the pod uses the host's network and is given no identity: run it with hostNetwork: false, " +
	"or take the readiness gate " + v1.PodConditionAssigned + " off"

// Pod is the input of the decision about one pod.
type Pod struct {
	// Gated is whether the pod names the condition in spec.readinessGates.
	Gated bool
	// Have is the pod's current condition, or nil.
	Have *corev1.PodCondition
	// NodeName is empty until the pod has a node.
	NodeName    string
	HostNetwork bool
	// Grants and Refusals are what identity.Rules returns for the pod.
	Grants   []identity.Grant
	Refusals []*reason.Refusal
	// Assigned holds the assigned identities that name the pod.
	Assigned []*v1.AzureAssignedIdentity
}

// Verdict is the desired condition.
type Verdict struct {
	Status          corev1.ConditionStatus
	Reason, Message string
	// Passing marks a state in which every pod starts, and which is likely to end in a moment.
	Passing bool
}

// Says reports whether the condition matches the verdict.
func (v Verdict) Says(have *corev1.PodCondition) bool {
	return have != nil && have.Status == v.Status && have.Reason == v.Reason && have.Message == v.Message
}

// Decide returns the desired condition, or false to leave it unchanged.
//
// A pod with the gate always has a condition once it has a node. It is True when every identity
// that the pod's bindings grant is on that node.
//
// A pod without the gate gets a condition only when one of its identities is refused. It stays
// False while the identity is in progress again. It turns True when every identity is on the node,
// or when nothing is granted anymore.
func Decide(pod Pod) (Verdict, bool) {
	if pod.NodeName == "" {
		return Verdict{}, false // a missing condition counts as not True
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

// now returns the verdict about the current state of the pod's identities.
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
		case onItsWay(found):
			waiting = append(waiting, name)
		case found.Status.Status != v1.StateAssigned:
			// The first by precedence provides the reason. A later one replaces it only if that one
			// is a permanent refusal and the first is not.
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

// find returns the assigned identity of an identity on the pod's node, for the current version of
// the identity. It returns nil if there is none.
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

// onItsWay reports whether an identity is neither on the node nor in trouble.
func onItsWay(found *v1.AzureAssignedIdentity) bool {
	return found == nil || found.Status.Status != v1.StateAssigned && found.Status.Reason == ""
}

// refused returns the verdict about a pod that is granted nothing.
func refused(refusals []*reason.Refusal) Verdict {
	if len(refusals) == 0 {
		return Verdict{Status: corev1.ConditionFalse, Reason: reason.NoBinding.Name(), Passing: true}
	}
	messages := make([]string, 0, len(refusals))
	for _, r := range refusals {
		messages = append(messages, r.Text())
	}
	slices.Sort(messages) // bindings are unordered, and the condition must not flap
	first := slices.MinFunc(refusals, func(a, b *reason.Refusal) int { return strings.Compare(a.Message, b.Message) })
	return Verdict{
		Status: corev1.ConditionFalse, Reason: first.Reason.Name(), Message: reason.Cut(strings.Join(messages, "; "), maxMessage),
		// Pod, binding and identity are often applied together.
		Passing: first.Reason == reason.NoBinding || first.Reason == reason.IdentityMissing || first.Reason == reason.NotShared,
	}
}

// refuses reports whether the status.reason of an assigned identity is a refusal that a person has
// to fix, as opposed to a transient error.
func refuses(reason string) bool {
	return assignment.AboutIdentity(reason) || strings.HasPrefix(reason, "Node")
}
