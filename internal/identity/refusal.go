// The refusals of this package and their messages.

package identity

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/reason"
)

// maxResource is how much of a client's resource parameter a message contains.
const maxResource = 200

// key returns the name of an object in messages: namespace/name.
func key(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func refuseNoLabel(pod Pod, empty bool) *reason.Refusal {
	has := "has no label " + v1.BindingLabel
	if empty {
		has = "has an empty label " + v1.BindingLabel
	}
	return reason.NoLabel.Refuse(
		"pod %s/%s %s: set it to the selector of an AzureIdentityBinding", pod.Namespace, pod.Name, has)
}

func refuseNoBinding(pod Pod, selector string) *reason.Refusal {
	return reason.NoBinding.Refuse(
		"no AzureIdentityBinding has the selector %q of pod %s/%s: create one in namespace %s, or correct the pod's label %s",
		selector, pod.Namespace, pod.Name, pod.Namespace, v1.BindingLabel)
}

func refuseOtherNamespace(pod Pod, b *v1.AzureIdentityBinding) *reason.Refusal {
	return reason.OtherNamespace.Refuse(
		"AzureIdentityBinding %s selects pod %s/%s but lives in another namespace: create the binding and its identity in namespace %s, or run with forceNamespaced=false",
		key(b), pod.Namespace, pod.Name, pod.Namespace).About(nil, b)
}

func refuseIdentityMissing(b *v1.AzureIdentityBinding) *reason.Refusal {
	if b.Spec.AzureIdentity == "" {
		return reason.IdentityMissing.Refuse(
			"AzureIdentityBinding %s names no AzureIdentity: set spec.azureIdentity to the name of one in namespace %s",
			key(b), b.Namespace).About(nil, b)
	}
	return reason.IdentityMissing.Refuse(
		"AzureIdentityBinding %s names AzureIdentity %q, which does not exist in namespace %s: create it there, or correct spec.azureIdentity",
		key(b), b.Spec.AzureIdentity, b.Namespace).About(nil, b)
}

func refuseIdentityLeaving(b *v1.AzureIdentityBinding, id *v1.AzureIdentity) *reason.Refusal {
	return reason.IdentityMissing.Refuse(
		"AzureIdentity %s, named by AzureIdentityBinding %s, is being deleted: wait until it is gone and create it again",
		key(id), key(b)).About(id, b)
}

func refuseNamespacedIdentity(pod Pod, b *v1.AzureIdentityBinding, id *v1.AzureIdentity) *reason.Refusal {
	return reason.NamespacedIdentity.Refuse(
		"AzureIdentity %s serves only its own namespace (annotation %s: %s), and pod %s/%s lives in another: create identity and binding in namespace %s, or remove the annotation",
		key(id), v1.BehaviorAnnotation, v1.BehaviorNamespaced, pod.Namespace, pod.Name, pod.Namespace).About(id, b)
}

func refuseBroken(id *v1.AzureIdentity, what string) *reason.Refusal {
	return reason.IdentityBroken.Refuse(
		"AzureIdentity %s cannot be used: %s", key(id), what).About(id, nil)
}

func refuseForbidden(pod Pod, g *Grant) *reason.Refusal {
	return reason.UseForbidden.Refuse(
		"no rule of AzureIdentityPolicy %s allows ServiceAccount %s/%s to use AzureIdentity %s: "+
			"ask the owner of the cluster for a rule that names this namespace and the identity",
		v1.PolicyName, pod.Namespace, pod.serviceAccount(), key(g.Identity)).About(g.Identity, g.Binding)
}

func refuseAudience(g Grant, resource string) *reason.Refusal {
	return reason.AudienceForbidden.Refuse(
		"rule %q of AzureIdentityPolicy %s does not allow AzureIdentity %s tokens for %q: "+
			"ask for one of the rule's audiences, or ask the owner of the cluster to add this one",
		g.permission.rule, v1.PolicyName, key(g.Identity), reason.Cut(resource, maxResource)).About(g.Identity, g.Binding)
}

func refuseClusterIdentity(pod Pod, g *Grant) *reason.Refusal {
	return reason.ClusterIdentity.Refuse(
		"AzureIdentity %s names an identity of the cluster itself (the kubelet's, or MIC's), which pods do not get: use another identity, "+
			"name this one for namespace %s in AzureIdentityPolicy %s, or run MIC and NMI with --allow-cluster-identities",
		key(g.Identity), pod.Namespace, v1.PolicyName).About(g.Identity, g.Binding)
}

func refuseTooMany(pod Pod, g Grant, n int) *reason.Refusal {
	return reason.TooManyIdentities.Refuse(
		"bindings grant pod %s/%s %d identities and a pod can use %d: AzureIdentity %s and %d further ones are left out; "+
			"give the pod's label %s a selector of fewer bindings",
		pod.Namespace, pod.Name, n, MaxIdentities, key(g.Identity), n-MaxIdentities-1, v1.BindingLabel).About(g.Identity, g.Binding)
}

func refuseException(pod Pod, e *v1.AzurePodIdentityException) *reason.Refusal {
	return reason.ExceptionForbidden.Refuse(
		"AzurePodIdentityException %s does not count: no rule of AzureIdentityPolicy %s with plainIMDS: true is for namespace %s: "+
			"ask the owner of the cluster for one", key(e), v1.PolicyName, pod.Namespace)
}
