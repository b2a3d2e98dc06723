// What pods of a node group need, and by which AzureIdentity objects.

package attachment

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/assignment"
)

// need is an identity that pods of a group need.
type need struct {
	spelling string // of the resource ID
	clientID string // of the AzureIdentity that was placed last
	// pods are those that need it, and by which AzureIdentity objects: one pod may have several.
	pods       map[types.NamespacedName]map[types.NamespacedName]podNeed
	requesters map[requester]*podCount
}

// requester is an AzureIdentity by which pods need an identity, and what decides whether they get
// it.
type requester struct {
	identity types.NamespacedName
	clientID string // in lower case, may be empty
	named    bool   // the policy names the identity for the pods' namespace
}

// podNeed is the need of one pod.
type podNeed struct {
	requester requester
	assigned  bool // the pod's object is Assigned
}

// podCount counts the pods of one requester.
type podCount struct {
	pods, assigned int
	// notified is the progress that the pods were last notified of, zero if not all of the same.
	notified assignment.Progress
}

func newNeed() *need {
	return &need{
		pods:       map[types.NamespacedName]map[types.NamespacedName]podNeed{},
		requesters: map[requester]*podCount{},
	}
}

func requesterOf(n assignment.Need) requester {
	return requester{n.Identity, canonical(n.ClientID), n.Named}
}

// place records a pod's need, and returns the count of its requester.
func (n *need) place(pod types.NamespacedName, p podNeed) *podCount {
	n.drop(pod, p.requester.identity)
	if n.pods[pod] == nil {
		n.pods[pod] = map[types.NamespacedName]podNeed{}
	}
	n.pods[pod][p.requester.identity] = p
	count := n.requesters[p.requester]
	if count == nil {
		count = &podCount{}
		n.requesters[p.requester] = count
	}
	count.add(p, 1)
	return count
}

// keep removes the needs of a pod by other AzureIdentity objects than these, and reports whether
// there were any.
func (n *need) keep(pod types.NamespacedName, identities []types.NamespacedName) (dropped bool) {
	for identity := range n.pods[pod] {
		if !slices.Contains(identities, identity) {
			n.drop(pod, identity)
			dropped = true
		}
	}
	return dropped
}

// drop removes the need of a pod by one AzureIdentity.
func (n *need) drop(pod, identity types.NamespacedName) {
	p, ok := n.pods[pod][identity]
	if !ok {
		return
	}
	if delete(n.pods[pod], identity); len(n.pods[pod]) == 0 {
		delete(n.pods, pod)
	}
	count := n.requesters[p.requester]
	if count.add(p, -1); count.pods == 0 {
		delete(n.requesters, p.requester)
	}
}

// podsOf returns the pods of some requesters.
func (n *need) podsOf(requesters map[requester]bool) (pods []types.NamespacedName) {
	if len(requesters) == 0 {
		return nil
	}
	for pod, needs := range n.pods {
		for _, p := range needs {
			if requesters[p.requester] {
				pods = append(pods, pod)
				break
			}
		}
	}
	return pods
}

// join records the progress that one more pod was notified of. If it differs from that of the other
// pods, the next change notifies all of them.
func (c *podCount) join(progress assignment.Progress) {
	if c.pods == 1 {
		c.notified = progress
	} else if progress != c.notified {
		c.notified = assignment.Progress{}
	}
}

func (c *podCount) add(p podNeed, n int) {
	c.pods += n
	if p.assigned {
		c.assigned += n
	}
}
