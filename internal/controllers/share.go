// Saving the cache's memory: thousands of assigned identities embed copies of a few identities and
// bindings.

package controllers

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// maxShared bounds how many identities, and how many bindings, are shared. Beyond it, all of them
// are dropped and collected again.
const maxShared = 10000

// shared lets the cached assigned identities share one copy of the same identity and of the same
// binding. With 20,000 of them, this saves a quarter of MIC's memory. It is safe because cached
// objects are never written to.
type shared struct {
	mu         sync.Mutex
	identities map[string]*v1.AzureIdentityCopy
	bindings   map[string]*v1.AzureIdentityBindingCopy
}

func newShared() *shared {
	return &shared{identities: map[string]*v1.AzureIdentityCopy{}, bindings: map[string]*v1.AzureIdentityBindingCopy{}}
}

// slimAssigned reduces an assigned identity to what the controllers read. MIC writes whole objects,
// so its next write removes the rest.
func (s *shared) slimAssigned(o any) (any, error) {
	assigned, ok := o.(*v1.AzureAssignedIdentity)
	if !ok {
		return o, nil
	}
	slim := &v1.AzureAssignedIdentity{ObjectMeta: slimMeta(assigned.ObjectMeta), Spec: assigned.Spec, Status: assigned.Status}
	slim.CreationTimestamp, slim.Labels = assigned.CreationTimestamp, ownLabels(assigned.Labels)
	slim.Finalizers = finalizers(assigned.Finalizers)
	slim.Spec.AzureAssignedIdentityOldSpelling = v1.AzureAssignedIdentityOldSpelling{}
	slim.Status.Conditions = nil
	if c := meta.FindStatusCondition(assigned.Status.Conditions, v1.ConditionAssigned); c != nil {
		slim.Status.Conditions = []metav1.Condition{*c}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := assigned.Spec.AzureIdentityRef; c != nil {
		fresh := &v1.AzureIdentityCopy{
			APIVersion: c.APIVersion, Kind: c.Kind, ObjectMeta: copiedMeta(c.ObjectMeta), Spec: c.Spec,
		}
		fresh.Spec.AzureIdentityOldSpelling = v1.AzureIdentityOldSpelling{}
		slim.Spec.AzureIdentityRef = share(s.identities, c.Namespace+"/"+c.Name, fresh)
	}
	if c := assigned.Spec.AzureBindingRef; c != nil {
		fresh := &v1.AzureIdentityBindingCopy{
			APIVersion: c.APIVersion, Kind: c.Kind, ObjectMeta: copiedMeta(c.ObjectMeta), Spec: c.Spec,
		}
		fresh.Spec.AzureIdentityBindingOldSpelling = v1.AzureIdentityBindingOldSpelling{}
		slim.Spec.AzureBindingRef = share(s.bindings, c.Namespace+"/"+c.Name, fresh)
	}
	return slim, nil
}

// copiedMeta reduces the metadata embedded in an assigned identity to what package assignment
// writes.
func copiedMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, Generation: m.Generation,
		Annotations: identity.CopiedAnnotations(m.Annotations),
	}
}

// ownLabels returns the labels that MIC writes.
func ownLabels(all map[string]string) map[string]string {
	own := make(map[string]string, 3)
	for _, name := range []string{v1.NodeNameLabel, v1.PodNameLabel, v1.PodNamespaceLabel} {
		if value, ok := all[name]; ok {
			own[name] = value
		}
	}
	return own
}

// maxFinalizers is how many finalizers of an assigned identity are kept. If it has more, only that
// of v1.8.17 is kept.
const maxFinalizers = 16

func finalizers(all []string) []string {
	if len(all) <= maxFinalizers {
		return all
	}
	if slices.Contains(all, v1.Finalizer) {
		return []string{v1.Finalizer}
	}
	return nil
}

// share returns the last copy under the key if it equals fresh. Otherwise it stores and returns
// fresh.
func share[T any](all map[string]*T, key string, fresh *T) *T {
	if old := all[key]; old != nil && equality.Semantic.DeepEqual(old, fresh) {
		return old
	}
	if len(all) >= maxShared {
		clear(all)
	}
	all[key] = fresh
	return fresh
}
