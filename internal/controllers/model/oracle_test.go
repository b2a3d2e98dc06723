// The desired state. It is derived only from the objects and the rules of package identity, without
// other production code.

package model

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
)

// view is a cluster as seen by the API server or by MIC's caches.
type view struct {
	rules      identity.Rules
	pods       []*corev1.Pod
	nodes      map[string]*corev1.Node
	bindings   []*v1.AzureIdentityBinding
	identities map[types.NamespacedName]*v1.AzureIdentity
	assigned   []*v1.AzureAssignedIdentity
}

func viewOf(rules identity.Rules, list func(kind) []client.Object) *view {
	v := &view{rules: rules, nodes: map[string]*corev1.Node{}, identities: map[types.NamespacedName]*v1.AzureIdentity{}}
	v.pods = listOf[*corev1.Pod](list)
	for _, node := range listOf[*corev1.Node](list) {
		v.nodes[node.Name] = node
	}
	v.bindings = listOf[*v1.AzureIdentityBinding](list)
	for _, id := range listOf[*v1.AzureIdentity](list) {
		v.identities[client.ObjectKeyFromObject(id)] = id
	}
	v.assigned = listOf[*v1.AzureAssignedIdentity](list)
	return v
}

func listOf[T client.Object](list func(kind) []client.Object) []T {
	var none T
	var out []T
	for _, o := range list(kindOf(none)) {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

// claim is a pod's entitlement to an identity.
type claim struct {
	pod      *corev1.Pod
	node     *corev1.Node
	identity *v1.AzureIdentity
	binding  *v1.AzureIdentityBinding
	// slot is the place on Azure, if the identity has to be on the node and can be.
	slot  slot
	azure bool
	lost  bool // it has to be, and cannot: the node is not in Azure
}

// claims returns all claims of the cluster.
func (v *view) claims() []claim {
	var all []claim
	for _, pod := range v.pods {
		node := v.nodes[pod.Spec.NodeName]
		if node == nil || pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		grants, _ := v.rules.Grants(identity.Pod{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels}, v.bindings,
			func(namespace, name string) *v1.AzureIdentity {
				return v.identities[types.NamespacedName{Namespace: namespace, Name: name}]
			})
		for _, g := range grants {
			c := claim{pod: pod, node: node, identity: g.Identity, binding: g.Binding}
			if g.Identity.Spec.Type == v1.UserAssignedMSI {
				group, err := compute.ParseProviderID(node.Spec.ProviderID)
				c.azure, c.lost = err == nil, err != nil
				c.slot = slot{group, strings.ToLower(g.Identity.Spec.ResourceID)}
			}
			all = append(all, c)
		}
	}
	return all
}

// groups returns the groups that have nodes.
func (v *view) groups() map[compute.Group]bool {
	out := map[compute.Group]bool{}
	for _, node := range v.nodes {
		if group, err := compute.ParseProviderID(node.Spec.ProviderID); err == nil {
			out[group] = true
		}
	}
	return out
}

// preassigned reports whether an annotation puts the identity on the group.
func (v *view) preassigned(s slot) bool {
	for _, id := range v.identities {
		if id.Spec.Type != v1.UserAssignedMSI || strings.ToLower(id.Spec.ResourceID) != s.key || !id.DeletionTimestamp.IsZero() {
			continue
		}
		if to := id.Annotations[v1.PreassignAnnotation]; to == "all" || to == s.group.Name {
			return true
		}
	}
	return false
}

// wanted returns the slots that pods or annotations require. On a group without nodes, MIC honors
// an annotation only for identities that it attached there.
func (v *view) wanted(groups []compute.Group, keys []string) map[slot]bool {
	out := map[slot]bool{}
	for _, c := range v.claims() {
		if c.azure {
			out[c.slot] = true
		}
	}
	for _, id := range v.identities {
		k := strings.ToLower(id.Spec.ResourceID)
		if id.Annotations[v1.PreassignAnnotation] == "" || !slices.Contains(keys, k) {
			continue
		}
		for _, group := range groups {
			if s := (slot{group, k}); v.preassigned(s) {
				out[s] = true
			}
		}
	}
	return out
}

// named reports whether the object has a name that the claim's object may have.
func (c *claim) named(o *v1.AzureAssignedIdentity) bool {
	plain := strings.ToLower(c.pod.Name + "-" + c.pod.Namespace + "-" + c.identity.Name)
	return o.Name == plain || strings.HasPrefix(o.Name, plain+"-") && len(o.Name) == len(plain)+11
}

// namespace returns the namespace of the claim's object.
func (c *claim) namespace(rules identity.Rules) string {
	if rules.ForceNamespaced || c.identity.Annotations[v1.BehaviorAnnotation] == v1.BehaviorNamespaced {
		return c.identity.Namespace
	}
	return "default"
}

// of reports whether the object belongs to the claim.
func (c *claim) of(o *v1.AzureAssignedIdentity) bool {
	ref := o.Spec.AzureIdentityRef
	return o.Spec.Pod == c.pod.Name && o.Spec.PodNamespace == c.pod.Namespace && ref != nil &&
		ref.Name == c.identity.Name && ref.Namespace == c.identity.Namespace
}

// wrong returns what is wrong with the object of a claim, apart from its state, or "".
func (c *claim) wrong(rules identity.Rules, o *v1.AzureAssignedIdentity) string {
	switch {
	case o.Namespace != c.namespace(rules):
		return "wrong namespace " + o.Namespace
	case !c.named(o):
		return "wrong name"
	case o.Spec.NodeName != c.node.Name:
		return "wrong node " + o.Spec.NodeName
	case o.Spec.AzureIdentityRef.UID != c.identity.UID:
		return "of an identity that is gone"
	case o.Spec.AzureIdentityRef.Spec.ResourceID != c.identity.Spec.ResourceID || o.Spec.AzureIdentityRef.Spec.Type != c.identity.Spec.Type ||
		o.Spec.AzureIdentityRef.Spec.ClientID != c.identity.Spec.ClientID:
		return "an old copy of the identity"
	case o.Spec.AzureBindingRef == nil || o.Spec.AzureBindingRef.UID != c.binding.UID:
		return "of another binding"
	case o.Labels[v1.NodeNameLabel] != c.node.Name || o.Labels[v1.PodNameLabel] != c.pod.Name || o.Labels[v1.PodNamespaceLabel] != c.pod.Namespace:
		return "wrong labels"
	case len(o.Finalizers) > 0:
		return "has a finalizer"
	case !o.DeletionTimestamp.IsZero():
		return "being deleted"
	}
	return ""
}

func (c *claim) String() string {
	return c.pod.Namespace + "/" + c.pod.Name + " x " + c.identity.Namespace + "/" + c.identity.Name + " on " + c.node.Name
}

// since records since when facts have held.
type since map[string]time.Time

// keep records the facts that hold now, and drops all others.
func (s since) keep(now map[string]bool) {
	for what := range now {
		if _, ok := s[what]; !ok {
			s[what] = time.Now()
		}
	}
	for what := range s {
		if !now[what] {
			delete(s, what)
		}
	}
}
