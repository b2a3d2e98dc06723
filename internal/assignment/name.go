// Name and namespace of an AzureAssignedIdentity.

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
	// hashLength is the number of hexadecimal digits that distinguish names: 40 bits, for the few
	// pairs that share a plain name.
	hashLength = 10
)

// Namespace returns the namespace of an identity's assigned identity: that of the identity if it is
// namespaced, by the cluster's rule or its own annotation, else "default".
func Namespace(rules identity.Rules, id *v1.AzureIdentity) string {
	if rules.ForceNamespaced || identity.Namespaced(id) {
		return id.Namespace
	}
	return defaultNamespace
}

// Name returns the name of the assigned identity of a pod and an identity. It is v1.8.17's
// <pod>-<pod's namespace>-<identity>, in lower case. Different pairs can share that name
// (identities of the same name in two namespaces, ambiguous hyphens), and it can be too long. Name
// then returns the second, hashed form. taken reports whether another pair already has a name.
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

// label returns value in a form that is valid as a label's value. A pod's name may exceed the 63
// characters of a label's value. A longer one is truncated and gets a hash, so that different
// values stay different.
func label(value string) string {
	const maxLabel = 63
	if len(value) <= maxLabel {
		return value
	}
	sum := sha256.Sum256([]byte(value))
	head := strings.TrimRight(value[:maxLabel-1-hashLength], "-.")
	return head + "-" + hex.EncodeToString(sum[:])[:hashLength]
}
