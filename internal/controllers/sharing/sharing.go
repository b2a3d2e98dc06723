// Package sharing finds whom a change of an identity touches: those who use it,
// and those who use one that is shared from it, whose owner may have given or
// taken back the consent.
package sharing

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
)

// ByOwner is the index that the caches must have: identities by Keys.
const ByOwner = "podid/shared-from"

// Keys is the identity that this one is shared from; most are from none.
func Keys(o client.Object) []string {
	if id, ok := o.(*v1.AzureIdentity); ok && identity.Shared(id) {
		return []string{id.Spec.SharedFrom.Namespace + "/" + id.Spec.SharedFrom.Name}
	}
	return nil
}

// With returns the identity's own name and those of identities shared from it.
func With(ctx context.Context, cache client.Reader, id client.Object) []types.NamespacedName {
	names := []types.NamespacedName{client.ObjectKeyFromObject(id)}
	var list v1.AzureIdentityList
	err := cache.List(ctx, &list, client.MatchingFields{ByOwner: id.GetNamespace() + "/" + id.GetName()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return names // only while the program stops
	}
	for i := range list.Items {
		names = append(names, client.ObjectKeyFromObject(&list.Items[i]))
	}
	return names
}
