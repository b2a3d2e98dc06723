// What of annotations is read, and how much.

package identity

import (
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
)

// MaxAnnotation is how long the value of an annotation may be. A longer one counts as absent, so
// that objects that a tenant has filled up cost little memory.
const MaxAnnotation = 16 << 10

// Annotations returns the annotations of an identity that have a meaning, without blanks around
// their values, or nil. The strings are copies: they keep no other part of the object in memory.
func Annotations(all map[string]string) map[string]string {
	return pick(all, v1.BehaviorAnnotation, v1.AllowedNamespacesAnnotation, v1.PreassignAnnotation)
}

// CopiedAnnotations returns those of Annotations that go into an assigned identity.
func CopiedAnnotations(all map[string]string) map[string]string {
	return pick(all, v1.BehaviorAnnotation)
}

func pick(all map[string]string, names ...string) map[string]string {
	var kept map[string]string
	for _, name := range names {
		value, ok := all[name]
		value = strings.TrimSpace(value)
		if !ok || len(value) > MaxAnnotation {
			continue
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[name] = strings.Clone(value)
	}
	return kept
}
