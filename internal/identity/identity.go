// Package identity decides which Azure identities a pod may use, and why not.
//
// It is the only place that decides that. MIC uses it to find what to attach to a node, the node
// agent before it hands out a token. It holds no client, no clock and no log: the same objects give
// the same result everywhere. Of several identities that a pod may use, the node agent takes the
// first that works: agent/authorize leaves out those that Azure refused.
package identity

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/reason"
)

// Pod is what this package needs to know about a pod.
type Pod struct {
	Namespace, Name string
	Labels          map[string]string
	// ServiceAccount is the name of the ServiceAccount the pod runs as.
	ServiceAccount string
	// NamespaceLabels are the labels of the pod's namespace. Only a policy with a
	// namespaceSelector needs them.
	NamespaceLabels map[string]string
}

// Rules are the settings of the cluster that affect the decision.
type Rules struct {
	// ForceNamespaced demands that pod, binding and identity share one
	// namespace, as every identity can demand for itself by its annotation.
	ForceNamespaced bool
	// Managed reports that podid does not assign identities to nodes. A managed identity is then
	// usable by its clientID alone, as in v1.8.17.
	Managed bool
	// AllowClusterIdentities lets pods use the identities in ClusterIdentities, as
	// in v1.8.17.
	AllowClusterIdentities bool
	// ClusterIdentities are the identities of the cluster itself, such as the
	// kubelet's: client IDs in lower case and resource IDs as ResourceID.Key.
	ClusterIdentities map[string]bool
	// Policy is the cluster's policy, nil where there is none.
	Policy *Policy
}

// With returns the rules under another policy.
func (r Rules) With(p *Policy) Rules {
	r.Policy = p
	return r
}

// Grant is an identity that a pod may use, with the binding that grants it. The objects are the
// caller's, not copies. Treat them as read-only.
type Grant struct {
	Identity *v1.AzureIdentity
	Binding  *v1.AzureIdentityBinding
	// Named reports that the policy names this very identity for the pod's namespace, by its client ID
	// or by a resource ID without wildcard.
	Named bool
	// Warning is what the policy would refuse if it were enforced, nil otherwise.
	Warning *reason.Refusal

	permission permission
}

// MaxIdentities is how many identities a pod can use. It bounds the work that one namespace can
// cause for the agent and MIC.
const MaxIdentities = 100

// maxRefusals bounds the refusals that Grants returns.
const maxRefusals = 100

// Grants returns the identities that the pod may use, each once with the best of its bindings. They
// are in order of precedence: weight of the binding, highest first, then age of the identity,
// oldest first, then name.
//
// refusals are for bindings that select the pod but grant nothing: at most one per binding and
// maxRefusals in all, or a single one when no binding applies. So grants and refusals are never
// both empty. If there are more than MaxIdentities, those of the pod's own namespace are kept
// first, and one refusal covers the rest.
//
// bindings may be all of the cluster or already filtered by selector. Nil entries are skipped.
// lookup returns the identity of that namespace and name, nil when there is none. It is called for
// the binding's namespace, and for the owner of an identity there that is shared from another
// namespace.
func (r Rules) Grants(
	pod Pod, bindings []*v1.AzureIdentityBinding, lookup func(namespace, name string) *v1.AzureIdentity,
) (grants []Grant, refusals []*reason.Refusal) {
	selector, refusal := wantedSelector(pod)
	if refusal != nil {
		return nil, []*reason.Refusal{refusal}
	}
	for _, b := range bindings {
		if b == nil || !active(b) || b.Spec.Selector != selector {
			continue
		}
		grant, refusal := r.consider(pod, b, lookup)
		switch {
		case refusal == nil:
			grants = append(grants, grant)
		case len(refusals) < maxRefusals:
			refusals = append(refusals, refusal)
		}
	}
	if len(grants) == 0 && len(refusals) == 0 {
		return nil, []*reason.Refusal{refuseNoBinding(pod, selector)}
	}
	grants, refusal = limit(pod, distinct(pod, grants))
	if refusal != nil {
		refusals = append(refusals, refusal)
	}
	return grants, refusals
}

// Selects reports whether the binding could grant its identity to the pod, judged by the binding
// alone: label, selector and namespaces. MIC uses it to find the pods that a changed binding
// affects.
func (r Rules) Selects(pod Pod, b *v1.AzureIdentityBinding) bool {
	selector, refusal := wantedSelector(pod)
	return refusal == nil && b != nil && active(b) && b.Spec.Selector == selector &&
		(!r.ForceNamespaced || b.Namespace == pod.Namespace)
}

// consider decides about one binding whose selector matches the pod.
func (r Rules) consider(
	pod Pod, b *v1.AzureIdentityBinding, lookup func(namespace, name string) *v1.AzureIdentity,
) (Grant, *reason.Refusal) {
	if r.ForceNamespaced && b.Namespace != pod.Namespace {
		return Grant{}, refuseOtherNamespace(pod, b)
	}
	id, refusal := identityOf(pod, b, lookup)
	if refusal != nil {
		return Grant{}, refusal
	}
	if refusal := r.check(id); refusal != nil {
		refusal.Binding = b
		return Grant{}, refusal
	}
	if Shared(id) {
		if refusal := consent(id, lookup(id.Spec.SharedFrom.Namespace, id.Spec.SharedFrom.Name)); refusal != nil {
			refusal.Binding = b
			return Grant{}, refusal
		}
	}
	grant := Grant{Identity: id, Binding: b}
	if refusal := r.judge(pod, &grant); refusal != nil {
		return Grant{}, refusal
	}
	return grant, nil
}

// identityOf returns the identity that the binding names, if the pod is in its reach.
func identityOf(
	pod Pod, b *v1.AzureIdentityBinding, lookup func(namespace, name string) *v1.AzureIdentity,
) (*v1.AzureIdentity, *reason.Refusal) {
	id := lookup(b.Namespace, b.Spec.AzureIdentity)
	// Reject a lookup that returned a different object: one that ignored the namespace must not widen
	// what a binding can reach.
	if id == nil || id.Namespace != b.Namespace || id.Name != b.Spec.AzureIdentity {
		return nil, refuseIdentityMissing(b)
	}
	if !id.DeletionTimestamp.IsZero() {
		return nil, refuseIdentityLeaving(b, id)
	}
	if Namespaced(id) && id.Namespace != pod.Namespace {
		return nil, refuseNamespacedIdentity(pod, b, id)
	}
	return id, nil
}

// judge applies the policy to a grant and records the result in it.
func (r Rules) judge(pod Pod, g *Grant) *reason.Refusal {
	g.permission = r.Policy.permission(pod, g.Identity)
	g.Named = g.permission.byClientID || g.permission.byResourceID
	if !r.AllowClusterIdentities && r.ofCluster(g.Identity) {
		if r.keepsFromPods(g) {
			return refuseClusterIdentity(pod, g)
		}
		*g = g.OfCluster()
	}
	if g.permission.rule != "" {
		return nil
	}
	switch r.Policy.Mode() {
	case v1.PolicyEnforce:
		return refuseForbidden(pod, g)
	case v1.PolicyWarn:
		g.Warning = refuseForbidden(pod, g)
	}
	return nil
}

// ofCluster reports whether the object names an identity of the cluster itself.
func (r Rules) ofCluster(id *v1.AzureIdentity) bool {
	byClientID, byResourceID := r.clusterIDs(&id.Spec)
	return byClientID || byResourceID
}

// clusterIDs reports which IDs of the spec are those of an identity of the cluster. No other type's
// resourceID is ever checked or used.
func (r Rules) clusterIDs(spec *v1.AzureIdentitySpec) (byClientID, byResourceID bool) {
	byClientID = spec.ClientID != "" && r.ClusterIdentities[ascii.ToLower(spec.ClientID)]
	byResourceID = spec.Type == v1.UserAssignedMSI && spec.ResourceID != "" && r.ClusterIdentities[ascii.ToLower(spec.ResourceID)]
	return byClientID, byResourceID
}

// keepsFromPods reports whether the object names an identity of the cluster itself that the policy
// does not name. A client ID in the policy does not permit the resource ID in the same object: the
// two may be of different identities.
func (r Rules) keepsFromPods(g *Grant) bool {
	byClientID, byResourceID := r.clusterIDs(&g.Identity.Spec)
	openByClientID := byClientID && g.permission.byClientID
	return byClientID && !g.Named || byResourceID && !g.permission.byResourceID && !openByClientID
}

// wantedSelector returns the value of the pod's binding label.
func wantedSelector(pod Pod) (string, *reason.Refusal) {
	selector, ok := pod.Labels[v1.BindingLabel]
	if !ok || selector == "" {
		// An empty selector selects nothing. A binding and a pod that both lack a value must not match.
		return "", refuseNoLabel(pod, ok)
	}
	return selector, nil
}

// active reports whether the binding is not being deleted. A deleted binding counts as revoked even
// while a finalizer holds it.
func active(b *v1.AzureIdentityBinding) bool { return b.DeletionTimestamp.IsZero() }

// distinct sorts grants by precedence and keeps the best of each identity. If objects of several
// namespaces name one managed identity, that of the pod's own namespace is kept: the pod's owner
// can change only that one.
func distinct(pod Pod, grants []Grant) []Grant {
	slices.SortFunc(grants, Compare)
	objects := make(map[types.NamespacedName]bool, len(grants))
	own := make(map[string]bool, len(grants))
	for _, g := range grants {
		if g.Identity.Namespace == pod.Namespace {
			own[managedIdentity(g.Identity)] = true
		}
	}
	kept := grants[:0]
	for _, g := range grants {
		name := types.NamespacedName{Namespace: g.Identity.Namespace, Name: g.Identity.Name}
		theirs := g.Identity.Namespace != pod.Namespace && own[managedIdentity(g.Identity)]
		if !objects[name] && !theirs {
			objects[name] = true
			kept = append(kept, g)
		}
	}
	return kept
}

// managedIdentity returns how Azure identifies a managed identity: by the resource ID, or by the
// client ID of an object without one. For other types it is the object's own name.
func managedIdentity(id *v1.AzureIdentity) string {
	switch {
	case id.Spec.Type != v1.UserAssignedMSI:
		return id.Namespace + "/" + id.Name
	case id.Spec.ResourceID != "":
		return ascii.ToLower(id.Spec.ResourceID)
	default:
		return ascii.ToLower(id.Spec.ClientID)
	}
}

// limit keeps MaxIdentities grants, those of the pod's own namespace first, in
// order of precedence. The refusal is for the others, nil when there are none.
func limit(pod Pod, grants []Grant) ([]Grant, *reason.Refusal) {
	if len(grants) <= MaxIdentities {
		return grants, nil
	}
	slices.SortStableFunc(grants, func(a, b Grant) int {
		return cmp.Compare(foreign(pod, a), foreign(pod, b))
	})
	refusal := refuseTooMany(pod, grants[MaxIdentities], len(grants))
	kept := slices.Clone(grants[:MaxIdentities]) // the others are not kept in memory
	slices.SortFunc(kept, Compare)
	return kept, refusal
}

func foreign(pod Pod, g Grant) int {
	if g.Identity.Namespace == pod.Namespace {
		return 0
	}
	return 1
}
