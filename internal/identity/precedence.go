// Precedence of granted identities.

package identity

import (
	"cmp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
)

// Compare orders grants by precedence: weight of the binding, highest first;
// then the oldest identity; then names. It is a total order: zero means the
// same identity by the same binding.
func Compare(a, b Grant) int {
	return cmp.Or(
		cmp.Compare(b.Binding.Spec.Weight, a.Binding.Spec.Weight),
		older(a.Identity.CreationTimestamp, b.Identity.CreationTimestamp),
		strings.Compare(a.Identity.Name, b.Identity.Name),
		strings.Compare(a.Identity.Namespace, b.Identity.Namespace),
		older(a.Binding.CreationTimestamp, b.Binding.CreationTimestamp),
		strings.Compare(a.Binding.Name, b.Binding.Name),
		strings.Compare(a.Binding.Namespace, b.Binding.Namespace),
	)
}

func older(a, b metav1.Time) int { return a.Compare(b.Time) }

// Namespaced reports whether the identity limits itself to its own namespace by the annotation
// v1.BehaviorAnnotation. The value counts in any case: an annotation misspelled as "Namespaced" was
// meant to restrict.
func Namespaced(id *v1.AzureIdentity) bool {
	return ascii.EqualFold(strings.TrimSpace(id.Annotations[v1.BehaviorAnnotation]), v1.BehaviorNamespaced)
}
