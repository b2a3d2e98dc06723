// Object references of Events. They have kind and UID, because kubectl describe finds an object's
// Events by its UID.

package events

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

// references returns references to the binding and the identity embedded in an assigned identity.
// They are never nil, but empty if the object embeds none.
func references(assigned *v1.AzureAssignedIdentity) (binding, id *corev1.ObjectReference) {
	binding, id = &corev1.ObjectReference{}, &corev1.ObjectReference{}
	if b := assigned.Spec.AzureBindingRef; b != nil {
		binding = reference(b, v1.GroupVersion.String(), "AzureIdentityBinding")
	}
	if i := assigned.Spec.AzureIdentityRef; i != nil {
		id = reference(i, v1.GroupVersion.String(), "AzureIdentity")
	}
	return binding, id
}

func bindingReference(b *v1.AzureIdentityBinding) *corev1.ObjectReference {
	return reference(b, v1.GroupVersion.String(), "AzureIdentityBinding")
}

func identityReference(id *v1.AzureIdentity) *corev1.ObjectReference {
	return reference(id, v1.GroupVersion.String(), "AzureIdentity")
}

func podReference(pod *corev1.Pod) *corev1.ObjectReference {
	return reference(pod, "v1", "Pod")
}

func reference(o metav1.Object, apiVersion, kind string) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: apiVersion, Kind: kind,
		Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
	}
}
