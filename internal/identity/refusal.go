// Why a pod does not get an identity, for programs (Reason) and for people (Message).

package identity

import (
	"fmt"

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
