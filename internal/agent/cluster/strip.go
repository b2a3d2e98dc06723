// What is kept of each object: on a big cluster every agent holds all
// identities and bindings.

package cluster

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

func stripMeta(m *metav1.ObjectMeta) {
	m.ManagedFields, m.OwnerReferences, m.Finalizers, m.Labels = nil, nil, nil, nil
	// The annotations that have a meaning; kubectl's copy of the object is a
	// bigger one.
	var kept map[string]string
	for _, name := range []string{v1.BehaviorAnnotation, v1.AllowedNamespacesAnnotation} {
		if value, ok := m.Annotations[name]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = value
		}
	}
	m.Annotations = kept
}

// What kind an object is, its Go type says.

func stripIdentity(id *v1.AzureIdentity) {
	id.TypeMeta = metav1.TypeMeta{}
	stripMeta(&id.ObjectMeta)
}

func stripBinding(b *v1.AzureIdentityBinding) {
	b.TypeMeta = metav1.TypeMeta{}
	stripMeta(&b.ObjectMeta)
}

func stripException(e *v1.AzurePodIdentityException) {
	e.TypeMeta = metav1.TypeMeta{}
	stripMeta(&e.ObjectMeta)
}

func stripAssigned(a *v1.AzureAssignedIdentity) {
	a.TypeMeta = metav1.TypeMeta{}
	stripMeta(&a.ObjectMeta)
	a.Spec.AzureBindingRef = nil
	if ref := a.Spec.AzureIdentityRef; ref != nil {
		a.Spec.AzureIdentityRef = &v1.AzureIdentityCopy{
			ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name},
			Spec:       v1.AzureIdentitySpec{ResourceID: ref.Spec.ResourceID},
		}
	}
}
