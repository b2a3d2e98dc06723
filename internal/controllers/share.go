// Memory: thousands of assigned identities hold copies of a few identities and bindings.

package controllers

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"

	v1 "github.com/podid-io/podid/api/v1"
)

// maxShared bounds how many identities, and how many bindings, are shared; beyond it all of them begin anew.
const maxShared = 10000

// shared lets the assigned identities in the cache hold one copy of the same identity, and of the same binding, instead
// of one each: with 20,000 of them that is a quarter of all that MIC has in memory. What is in the cache is never written
// to, so they can.
type shared struct {
	mu         sync.Mutex
	identities map[string]*v1.AzureIdentityCopy
	bindings   map[string]*v1.AzureIdentityBindingCopy
}

func newShared() *shared {
	return &shared{identities: map[string]*v1.AzureIdentityCopy{}, bindings: map[string]*v1.AzureIdentityBindingCopy{}}
}

// slimAssigned is the cache's transform of assigned identities.
func (s *shared) slimAssigned(o any) (any, error) {
	assigned, ok := o.(*v1.AzureAssignedIdentity)
	if !ok {
		return o, nil
	}
	assigned.ManagedFields = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := assigned.Spec.AzureIdentityRef; c != nil {
		assigned.Spec.AzureIdentityRef = share(s.identities, c.Namespace+"/"+c.Name, c)
	}
	if c := assigned.Spec.AzureBindingRef; c != nil {
		assigned.Spec.AzureBindingRef = share(s.bindings, c.Namespace+"/"+c.Name, c)
	}
	return assigned, nil
}

// share returns the copy that was seen last under that key if it is the same, and else keeps the fresh one.
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
