// What is kept of each object. On a large cluster, every agent has all identities and bindings.

package cluster

import (
	"maps"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

func stripMeta(m *metav1.ObjectMeta) {
	*m = metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
		Annotations: identity.Annotations(m.Annotations),
	}
}

func stripIdentity(id *v1.AzureIdentity) {
	id.TypeMeta = metav1.TypeMeta{}
	stripMeta(&id.ObjectMeta)
	id.Spec.AzureIdentityOldSpelling, id.Status = v1.AzureIdentityOldSpelling{}, v1.AzureIdentityStatus{}
}

func stripBinding(b *v1.AzureIdentityBinding) {
	b.TypeMeta = metav1.TypeMeta{}
	stripMeta(&b.ObjectMeta)
	b.Spec.AzureIdentityBindingOldSpelling, b.Status = v1.AzureIdentityBindingOldSpelling{}, v1.AzureIdentityBindingStatus{}
}

func stripException(e *v1.AzurePodIdentityException) {
	e.TypeMeta = metav1.TypeMeta{}
	stripMeta(&e.ObjectMeta)
	e.Status = v1.AzurePodIdentityExceptionStatus{}
	maps.DeleteFunc(e.Spec.PodLabels, func(name, value string) bool { // labels that no pod can have
		return len(name) > maxLabelName || len(value) > validation.LabelValueMaxLength
	})
}

func stripAssigned(a *v1.AzureAssignedIdentity) {
	a.TypeMeta = metav1.TypeMeta{}
	stripMeta(&a.ObjectMeta)
	a.Spec.AzureBindingRef, a.Spec.AzureAssignedIdentityOldSpelling = nil, v1.AzureAssignedIdentityOldSpelling{}
	a.Status.Conditions, a.Status.Message = nil, shorten(a.Status.Message)
	if ref := a.Spec.AzureIdentityRef; ref != nil {
		a.Spec.AzureIdentityRef = &v1.AzureIdentityCopy{
			ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name},
			Spec:       v1.AzureIdentitySpec{Type: ref.Spec.Type, ResourceID: ref.Spec.ResourceID},
		}
	}
}

// The maximum length of a label's name with its prefix, and of a message to pods.
const (
	maxLabelName = 253 + 1 + 63
	maxMessage   = 4 << 10
)

// shorten returns at most maxMessage bytes of a message, in memory of their own.
func shorten(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.Clone(strings.ToValidUTF8(message[:maxMessage], ""))
}
