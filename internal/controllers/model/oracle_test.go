// What should be: worked out from the objects by the rules of package identity, and
// by nothing else of the product.

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

// view is a cluster as somebody sees it: the API server, or MIC's caches.
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

// claim is that a pod is to have an identity.
type claim struct {
	pod      *corev1.Pod
	node     *corev1.Node
	identity *v1.AzureIdentity
	binding  *v1.AzureIdentityBinding
	// slot is where on Azure, if the identity has to come to the node and can.
	slot  slot
	azure bool
	lost  bool // it has to, and cannot: the node is not Azure's
}

// claims are all of the cluster.
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

// groups are those that have nodes.
func (v *view) groups() map[compute.Group]bool {
	out := map[compute.Group]bool{}
	for _, node := range v.nodes {
		if group, err := compute.ParseProviderID(node.Spec.ProviderID); err == nil {
			out[group] = true
		}
	}
	return out
}

// preassigned tells whether an annotation puts the identity on the group.
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

// wanted are the slots that pods or annotations want. MIC heeds an annotation on a
// group without nodes only for what it has attached there.
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

// names are what the object of a claim may be called.
func (c *claim) named(o *v1.AzureAssignedIdentity) bool {
	plain := strings.ToLower(c.pod.Name + "-" + c.pod.Namespace + "-" + c.identity.Name)
	return o.Name == plain || strings.HasPrefix(o.Name, plain+"-") && len(o.Name) == len(plain)+11
}

// namespace is where its object lives.
func (c *claim) namespace(rules identity.Rules) string {
	if rules.ForceNamespaced || c.identity.Annotations[v1.BehaviorAnnotation] == v1.BehaviorNamespaced {
		return c.identity.Namespace
	}
	return "default"
}

// of tells whether the object is about the claim.
func (c *claim) of(o *v1.AzureAssignedIdentity) bool {
	ref := o.Spec.AzureIdentityRef
	return o.Spec.Pod == c.pod.Name && o.Spec.PodNamespace == c.pod.Namespace && ref != nil &&
		ref.Name == c.identity.Name && ref.Namespace == c.identity.Namespace
}

// wrong says what is wrong about the object of a claim but its state, "" for nothing.
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

// since remembers since when something has been so.
type since map[string]time.Time

// keep takes what is so now.
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
