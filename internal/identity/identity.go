// Package identity decides which Azure identities a pod may use, and why not.
//
// It is the one place that decides: MIC asks it what to attach to a node, the
// node agent asks it before a token goes out, and the command line asks it to
// explain. It holds no client, no clock and no log; the same objects give the
// same answer everywhere.
package identity

import (
	"slices"

	v1 "github.com/podid-io/podid/api/v1"
)

// Pod is what this package needs to know about a pod.
type Pod struct {
	Namespace, Name string
	Labels          map[string]string
}

// Rules are the settings of the cluster that bear on the decision.
type Rules struct {
	// ForceNamespaced demands that pod, binding and identity share one
	// namespace, as every identity can demand for itself by its annotation.
	ForceNamespaced bool
	// Managed tells that nobody here assigns identities to nodes: a managed
	// identity is then usable by its clientID alone, as in v1.8.17.
	Managed bool
}

// Grant says that a pod may use an identity, and which binding says so. The
// objects are those the caller handed in, not copies; treat them as read-only.
type Grant struct {
	Identity *v1.AzureIdentity
	Binding  *v1.AzureIdentityBinding
}

// Grants returns the identities the pod may use, in order of precedence and
// each once, with the best of its bindings. Precedence is: weight of the
// binding, highest first; age of the identity, oldest first; name.
//
// Whatever selects the pod and grants nothing is told in refusals: at most one
// per binding, or a single one when no binding was in question at all. So
// grants and refusals are never both empty.
//
// bindings may be all of the cluster or already narrowed by selector, nil
// entries are skipped. lookup returns the identity of that namespace and name,
// nil when there is none; it is asked in the binding's namespace, and for the
// owner of an identity there that is shared from another namespace.
func (r Rules) Grants(
	pod Pod, bindings []*v1.AzureIdentityBinding, lookup func(namespace, name string) *v1.AzureIdentity,
) (grants []Grant, refusals []*Refusal) {
	selector, refusal := wantedSelector(pod)
	if refusal != nil {
		return nil, []*Refusal{refusal}
	}
	for _, b := range bindings {
		if b == nil || !active(b) || b.Spec.Selector != selector {
			continue
		}
		grant, refusal := r.consider(pod, b, lookup)
		if refusal != nil {
			refusals = append(refusals, refusal)
			continue
		}
		grants = append(grants, grant)
	}
	if len(grants) == 0 && len(refusals) == 0 {
		return nil, []*Refusal{refuseNoBinding(pod, selector)}
	}
	return distinct(grants), refusals
}

// Selects tells whether the binding could grant its identity to the pod, as far
// as the binding alone can tell: label, selector and namespaces. MIC uses it to
// find the pods that a changed binding touches.
func (r Rules) Selects(pod Pod, b *v1.AzureIdentityBinding) bool {
	selector, refusal := wantedSelector(pod)
	return refusal == nil && b != nil && active(b) && b.Spec.Selector == selector &&
		(!r.ForceNamespaced || b.Namespace == pod.Namespace)
}

// consider decides about one binding whose selector is the pod's.
func (r Rules) consider(
	pod Pod, b *v1.AzureIdentityBinding, lookup func(namespace, name string) *v1.AzureIdentity,
) (Grant, *Refusal) {
	if r.ForceNamespaced && b.Namespace != pod.Namespace {
		return Grant{}, refuseOtherNamespace(pod, b)
	}
	id := lookup(b.Namespace, b.Spec.AzureIdentity)
	// An answer to another question is no answer: a lookup that ignored the
	// namespace must not widen what a binding can reach.
	if id == nil || id.Namespace != b.Namespace || id.Name != b.Spec.AzureIdentity {
		return Grant{}, refuseIdentityMissing(b)
	}
	if !id.DeletionTimestamp.IsZero() {
		return Grant{}, refuseIdentityLeaving(b, id)
	}
	if Namespaced(id) && id.Namespace != pod.Namespace {
		return Grant{}, refuseNamespacedIdentity(pod, b, id)
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
	return Grant{Identity: id, Binding: b}, nil
}

// wantedSelector is the value of the pod's binding label.
func wantedSelector(pod Pod) (string, *Refusal) {
	selector, ok := pod.Labels[v1.BindingLabel]
	if !ok || selector == "" {
		// An empty selector selects nothing: a binding and a pod that both
		// forgot theirs must not find each other.
		return "", refuseNoLabel(pod, ok)
	}
	return selector, nil
}

// active is false for a binding that somebody has deleted and a finalizer
// holds: whoever deleted it meant to revoke it.
func active(b *v1.AzureIdentityBinding) bool { return b.DeletionTimestamp.IsZero() }

// distinct sorts grants by precedence and keeps the best of each identity.
// Grants of a pod are few, so looking back is cheaper than a map.
func distinct(grants []Grant) []Grant {
	slices.SortFunc(grants, Compare)
	kept := grants[:0]
	for _, g := range grants {
		if !slices.ContainsFunc(kept, func(k Grant) bool { return same(k.Identity, g.Identity) }) {
			kept = append(kept, g)
		}
	}
	return kept
}

func same(a, b *v1.AzureIdentity) bool { return a.Namespace == b.Namespace && a.Name == b.Name }
