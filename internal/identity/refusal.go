// Why a pod does not get an identity, for programs (Reason) and for people (Message).

package identity

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

// Reason is why a pod does not get an identity, in one word. It is fit for an
// event's reason, a metric's label and a log's value.
type Reason string

// The reasons.
const (
	// NoLabel: the pod has no label v1.BindingLabel, or an empty one.
	NoLabel Reason = "NoLabel"
	// NoBinding: the pod has the label, and no binding selects it.
	NoBinding Reason = "NoBinding"
	// IdentityMissing: a binding selects the pod and names an identity that
	// does not exist in the binding's namespace, or is being deleted.
	IdentityMissing Reason = "IdentityMissing"
	// OtherNamespace: a binding would select the pod, but lives in another
	// namespace and the cluster is namespaced.
	OtherNamespace Reason = "OtherNamespace"
	// NamespacedIdentity: as OtherNamespace, because the identity itself is
	// annotated as namespaced.
	NamespacedIdentity Reason = "NamespacedIdentity"
	// IdentityBroken: the identity lacks what its type needs, or says it wrongly.
	IdentityBroken Reason = "IdentityBroken"
	// NotShared: the identity is shared from another namespace's, whose owner has
	// not allowed it so.
	NotShared Reason = "NotShared"
	// NoMatch: the request names an identity that is not among those granted.
	NoMatch Reason = "NoMatch"
	// ForbiddenByPolicy: no rule of the AzureIdentityPolicy allows the use.
	ForbiddenByPolicy Reason = "ForbiddenByPolicy"
	// ClusterIdentity: the identity is the cluster's own, such as the kubelet's.
	ClusterIdentity Reason = "ClusterIdentity"
	// TooManyIdentities: bindings grant the pod more than MaxIdentities.
	TooManyIdentities Reason = "TooManyIdentities"
)

// Refusal is why a pod does not get an identity. It is an error; its text is
// Message.
type Refusal struct {
	Reason Reason
	// Message is one sentence for a person: what is the matter, and the remedy.
	// It holds no secrets and only shortened ids.
	Message string
	// Identity is the identity in question, nil when there is none.
	Identity *v1.AzureIdentity
	// Binding is the binding in question, nil when there is none.
	Binding *v1.AzureIdentityBinding
}

// Error is the refusal's Message.
func (r *Refusal) Error() string { return r.Message }

// key is how messages name an object: namespace/name.
func key(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func refuseNoLabel(pod Pod, empty bool) *Refusal {
	has := "has no label " + v1.BindingLabel
	if empty {
		has = "has an empty label " + v1.BindingLabel
	}
	return &Refusal{Reason: NoLabel, Message: fmt.Sprintf(
		"pod %s/%s %s: set it to the selector of an AzureIdentityBinding", pod.Namespace, pod.Name, has)}
}

func refuseNoBinding(pod Pod, selector string) *Refusal {
	return &Refusal{Reason: NoBinding, Message: fmt.Sprintf(
		"no AzureIdentityBinding has the selector %q of pod %s/%s: create one in namespace %s, or correct the pod's label %s",
		selector, pod.Namespace, pod.Name, pod.Namespace, v1.BindingLabel)}
}

func refuseOtherNamespace(pod Pod, b *v1.AzureIdentityBinding) *Refusal {
	return &Refusal{Reason: OtherNamespace, Binding: b, Message: fmt.Sprintf(
		"AzureIdentityBinding %s selects pod %s/%s but lives in another namespace: create the binding and its identity in namespace %s, or run with forceNamespaced=false",
		key(b), pod.Namespace, pod.Name, pod.Namespace)}
}

func refuseIdentityMissing(b *v1.AzureIdentityBinding) *Refusal {
	if b.Spec.AzureIdentity == "" {
		return &Refusal{Reason: IdentityMissing, Binding: b, Message: fmt.Sprintf(
			"AzureIdentityBinding %s names no AzureIdentity: set spec.azureIdentity to the name of one in namespace %s",
			key(b), b.Namespace)}
	}
	return &Refusal{Reason: IdentityMissing, Binding: b, Message: fmt.Sprintf(
		"AzureIdentityBinding %s names AzureIdentity %q, which does not exist in namespace %s: create it there, or correct spec.azureIdentity",
		key(b), b.Spec.AzureIdentity, b.Namespace)}
}

func refuseIdentityLeaving(b *v1.AzureIdentityBinding, id *v1.AzureIdentity) *Refusal {
	return &Refusal{Reason: IdentityMissing, Binding: b, Identity: id, Message: fmt.Sprintf(
		"AzureIdentity %s, named by AzureIdentityBinding %s, is being deleted: wait until it is gone and create it again",
		key(id), key(b))}
}

func refuseNamespacedIdentity(pod Pod, b *v1.AzureIdentityBinding, id *v1.AzureIdentity) *Refusal {
	return &Refusal{Reason: NamespacedIdentity, Binding: b, Identity: id, Message: fmt.Sprintf(
		"AzureIdentity %s serves only its own namespace (annotation %s: %s), and pod %s/%s lives in another: create identity and binding in namespace %s, or remove the annotation",
		key(id), v1.BehaviorAnnotation, v1.BehaviorNamespaced, pod.Namespace, pod.Name, pod.Namespace)}
}

func refuseBroken(id *v1.AzureIdentity, what string) *Refusal {
	return &Refusal{Reason: IdentityBroken, Identity: id, Message: fmt.Sprintf(
		"AzureIdentity %s cannot be used: %s", key(id), what)}
}

func refuseForbidden(pod Pod, g *Grant) *Refusal {
	return &Refusal{Reason: ForbiddenByPolicy, Identity: g.Identity, Binding: g.Binding, Message: fmt.Sprintf(
		"no rule of AzureIdentityPolicy %s allows ServiceAccount %s/%s to use AzureIdentity %s: "+
			"ask the owner of the cluster for a rule that names this namespace and the identity",
		v1.PolicyName, pod.Namespace, pod.serviceAccount(), key(g.Identity))}
}

func refuseAudience(g Grant, resource string) *Refusal {
	return &Refusal{Reason: ForbiddenByPolicy, Identity: g.Identity, Binding: g.Binding, Message: fmt.Sprintf(
		"rule %q of AzureIdentityPolicy %s does not allow AzureIdentity %s tokens for %q: "+
			"ask for one of the rule's audiences, or ask the owner of the cluster to add this one",
		g.permission.rule, v1.PolicyName, key(g.Identity), clip(resource))}
}

func refuseClusterIdentity(pod Pod, g *Grant) *Refusal {
	return &Refusal{Reason: ClusterIdentity, Identity: g.Identity, Binding: g.Binding, Message: fmt.Sprintf(
		"AzureIdentity %s names an identity of the cluster itself (the kubelet's, or MIC's), which pods do not get: use another identity, "+
			"name this one for namespace %s in AzureIdentityPolicy %s, or run MIC and NMI with --allow-cluster-identities",
		key(g.Identity), pod.Namespace, v1.PolicyName)}
}

func refuseTooMany(pod Pod, g Grant, n int) *Refusal {
	return &Refusal{Reason: TooManyIdentities, Identity: g.Identity, Binding: g.Binding, Message: fmt.Sprintf(
		"bindings grant pod %s/%s %d identities and a pod can use %d: AzureIdentity %s and %d further ones are left out; "+
			"give the pod's label %s a selector of fewer bindings",
		pod.Namespace, pod.Name, n, MaxIdentities, key(g.Identity), n-MaxIdentities-1, v1.BindingLabel)}
}

func refuseException(pod Pod, e *v1.AzurePodIdentityException) *Refusal {
	return &Refusal{Reason: ForbiddenByPolicy, Message: fmt.Sprintf(
		"AzurePodIdentityException %s does not count: no rule of AzureIdentityPolicy %s with plainIMDS: true is for namespace %s: "+
			"ask the owner of the cluster for one", key(e), v1.PolicyName, pod.Namespace)}
}

// clip bounds what a client sent for a message.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
