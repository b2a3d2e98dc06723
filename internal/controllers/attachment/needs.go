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
	clientID string // as the AzureIdentity that was placed last says
	// pods are those that need it, and by which AzureIdentity objects: one pod may have several.
	pods  map[types.NamespacedName]map[types.NamespacedName]seat
	users map[user]*audience
}

// user is an AzureIdentity by which pods need an identity, with what decides whether they get it.
type user struct {
	identity types.NamespacedName
	clientID string // in lower case, may be empty
	named    bool   // the policy names the identity for the pods' namespace
}

// seat is one pod's need.
type seat struct {
	user     user
	assigned bool // the pod's object says Assigned
}

// audience are the pods of one user.
type audience struct {
	pods, assigned int
	// told is what the pods were last told, zero when not all were told the same.
	told assignment.Progress
}

func newNeed() *need {
	return &need{pods: map[types.NamespacedName]map[types.NamespacedName]seat{}, users: map[user]*audience{}}
}

func userOf(n assignment.Need) user {
	return user{n.Identity, canonical(n.ClientID), n.Named}
}

// place records a pod's need, and returns the audience that it is in.
func (n *need) place(pod types.NamespacedName, s seat) *audience {
	n.drop(pod, s.user.identity)
	if n.pods[pod] == nil {
		n.pods[pod] = map[types.NamespacedName]seat{}
	}
	n.pods[pod][s.user.identity] = s
	a := n.users[s.user]
	if a == nil {
		a = &audience{}
		n.users[s.user] = a
	}
	a.count(s, 1)
	return a
}

// leave removes a pod.
func (n *need) leave(pod types.NamespacedName) {
	n.keep(pod, nil)
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
	s, ok := n.pods[pod][identity]
	if !ok {
		return
	}
	if delete(n.pods[pod], identity); len(n.pods[pod]) == 0 {
		delete(n.pods, pod)
	}
	a := n.users[s.user]
	if a.count(s, -1); a.pods == 0 {
		delete(n.users, s.user)
	}
}

func (a *audience) count(s seat, by int) {
	a.pods += by
	if s.assigned {
		a.assigned += by
	}
}

// demand is what the pods that need an identity ask for.
type demand struct {
	wanted  bool // by an AzureIdentity that is not refused
	verify  bool // and that the policy does not name
	waiting bool // and whose pods are not all Assigned
}

// demand returns what is asked for. mu is held.
func (st *state) demand(key string) (d demand) {
	n := st.needs[key]
	if n == nil {
		return d
	}
	for u, a := range n.users {
		if objection, _ := st.objection(key, u); objection.Reason != "" {
			continue
		}
		d.wanted = true
		d.verify = d.verify || !u.named
		d.waiting = d.waiting || !u.named && a.assigned < a.pods
	}
	return d
}

// satisfied reports whether the group has what is asked for. mu is held.
func (st *state) satisfied(key string, d demand) bool {
	return st.there(key) && !st.unread[key] && (st.vouched(key) || !d.waiting)
}
