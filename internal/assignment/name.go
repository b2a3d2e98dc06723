// What an AzureAssignedIdentity is called, and where it lives.

package assignment

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/identity"
)

const (
	// defaultNamespace holds the objects of identities that are not namespaced,
	// as in v1.8.17.
	defaultNamespace = "default"
	// maxName is the longest name of an object that is a DNS subdomain.
	maxName = 253
	// hashLength is how many hexadecimal digits keep two names apart: 40 bits,
	// against the handful of pairs that ever share a plain name.
	hashLength = 10
)

// Namespace is where the assigned identity of an identity lives: with the
// identity when that is namespaced, by the cluster's rule or its own annotation,
// else in "default".
func Namespace(rules identity.Rules, id *v1.AzureIdentity) string {
	if rules.ForceNamespaced || identity.Namespaced(id) {
		return id.Namespace
	}
	return defaultNamespace
}

// Name is what the assigned identity of a pod and an identity is called in
// v1.8.17: <pod>-<pod's namespace>-<identity>, in lower case. Different pairs can
// share that name (same-named identities of two namespaces, hyphens that could
// belong to either side), and it can be too long: then unambiguous is the
// second, hashed form. taken reports whether another pair holds a name already.
func Name(podNamespace, pod string, id *v1.AzureIdentity, taken func(name string) bool) string {
	plain := ascii.ToLower(pod + "-" + podNamespace + "-" + id.Name)
	if len(plain) <= maxName && !taken(plain) {
		return plain
	}
	// The parts are joined by a character that none of them can contain.
	sum := sha256.Sum256([]byte(strings.Join([]string{podNamespace, pod, id.Namespace, id.Name}, "/")))
	suffix := hex.EncodeToString(sum[:])[:hashLength]
	head := plain[:min(len(plain), maxName-1-hashLength)]
	return strings.TrimRight(head, "-.") + "-" + suffix
}

// label is the value as it can stand in a label: a pod's name may be longer
// than the 63 characters that a label's value may have. What does not fit is cut
// and marked by a hash, so that equal values stay equal and different ones
// different.
func label(value string) string {
	const maxLabel = 63
	if len(value) <= maxLabel {
		return value
	}
	sum := sha256.Sum256([]byte(value))
	head := strings.TrimRight(value[:maxLabel-1-hashLength], "-.")
	return head + "-" + hex.EncodeToString(sum[:])[:hashLength]
}
