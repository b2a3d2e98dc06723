// Package lookup has the cache indexes, and the lookups that several controllers need.
//
// Objects from the caches are not copied: a caller must copy an object before changing it. A lookup
// without an error result can fail only during shutdown, and returns nothing then.
package lookup

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

// The indexes. Package controllers adds them to the caches.
const (
	// NodesByGroup indexes nodes by the ARM resource ID of their VM or scale set.
	NodesByGroup = "podid/node-group"
	// PodsBySelector indexes pods by the value of their binding label.
	PodsBySelector = "podid/binding-label"
	// GatedPodsBySelector is PodsBySelector limited to pods with podid's readiness gate or
	// condition.
	GatedPodsBySelector = "podid/readiness"
	// PodsByNode indexes pods by their node.
	PodsByNode = "podid/pod-node"
	// BindingsBySelector indexes bindings by spec.selector.
	BindingsBySelector = "podid/selector"
	// BindingsByIdentity indexes bindings by spec.azureIdentity.
	BindingsByIdentity = "podid/identity"
	// IdentitiesByOwner indexes identities by the <namespace>/<name> of the identity they are
	// shared from.
	IdentitiesByOwner = "podid/shared-from"
	// AssignedByPod indexes assigned identities by the <namespace>/<name> of their pod.
	AssignedByPod = "podid/pod"
	// AssignedByNode indexes assigned identities by their node.
	AssignedByNode = "podid/node-name"
	// AssignedByIdentity indexes assigned identities by the <namespace>/<name> of their identity.
	// If Azure refuses the identity, it has the same key with RefusedPrefix as well.
	AssignedByIdentity = "podid/assigned-identity"
)

// RefusedPrefix contains a colon, so no namespace starts with it.
const RefusedPrefix = "refused:"

// NoCopy reads an object from the cache without a copy.
func NoCopy() client.GetOption { return &client.GetOptions{UnsafeDisableDeepCopy: new(true)} }

// Bindings returns the bindings with a selector, narrowed by the options.
func Bindings(ctx context.Context, cache client.Reader, selector string, options ...client.ListOption) ([]*v1.AzureIdentityBinding, error) {
	var list v1.AzureIdentityBindingList
	options = append(options, client.MatchingFields{BindingsBySelector: selector}, client.UnsafeDisableDeepCopy)
	if err := cache.List(ctx, &list, options...); err != nil {
		return nil, fmt.Errorf("list bindings with selector %q: %w", selector, err)
	}
	return pointers(list.Items), nil
}

// Assigned returns a pod's assigned identities.
func Assigned(ctx context.Context, cache client.Reader, pod types.NamespacedName) ([]*v1.AzureAssignedIdentity, error) {
	var list v1.AzureAssignedIdentityList
	if err := cache.List(ctx, &list, client.MatchingFields{AssignedByPod: pod.String()}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list assigned identities of pod %s: %w", pod, err)
	}
	return pointers(list.Items), nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, 0, len(items))
	for i := range items {
		out = append(out, &items[i])
	}
	return out
}

// Grants returns what the bindings grant to the pod and what the rules refuse. On an error the
// caller must not remove anything from the pod.
func Grants(
	ctx context.Context, cache client.Reader, rules identity.Rules, pod identity.Pod, bindings []*v1.AzureIdentityBinding,
) ([]identity.Grant, []*reason.Refusal, error) {
	var failed error
	grants, refusals := rules.Grants(pod, bindings, func(namespace, name string) *v1.AzureIdentity {
		var id v1.AzureIdentity
		err := cache.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &id, NoCopy())
		if err == nil {
			return &id
		}
		if !apierrors.IsNotFound(err) {
			failed = fmt.Errorf("read identity %s/%s: %w", namespace, name, err)
		}
		return nil
	})
	if failed != nil {
		return nil, nil, failed
	}
	return grants, refusals, nil
}

// BindingsIn returns a request for each binding of a namespace, or for all if namespace is "".
func BindingsIn(ctx context.Context, cache client.Reader, namespace string) []reconcile.Request {
	var list v1.AzureIdentityBindingList
	if cache.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy) != nil {
		return nil
	}
	return Requests(pointers(list.Items))
}

// BindingsOfIdentity returns the bindings that name the identity, or an identity shared from it,
// whose owner may have given or withdrawn consent.
func BindingsOfIdentity(ctx context.Context, cache client.Reader, id client.Object) []*v1.AzureIdentityBinding {
	names := []types.NamespacedName{client.ObjectKeyFromObject(id)}
	var shared v1.AzureIdentityList
	owner := client.MatchingFields{IdentitiesByOwner: names[0].String()}
	if cache.List(ctx, &shared, owner, client.UnsafeDisableDeepCopy) == nil {
		for i := range shared.Items {
			names = append(names, client.ObjectKeyFromObject(&shared.Items[i]))
		}
	}
	var all []*v1.AzureIdentityBinding
	for _, name := range names {
		var list v1.AzureIdentityBindingList
		named := client.MatchingFields{BindingsByIdentity: name.Name}
		if cache.List(ctx, &list, client.InNamespace(name.Namespace), named, client.UnsafeDisableDeepCopy) == nil {
			all = append(all, pointers(list.Items)...)
		}
	}
	return all
}

// Pods returns a request for each pod that the options select.
func Pods(ctx context.Context, cache client.Reader, options ...client.ListOption) []reconcile.Request {
	var pods corev1.PodList
	if cache.List(ctx, &pods, append(options, client.UnsafeDisableDeepCopy)...) != nil {
		return nil
	}
	return Requests(pointers(pods.Items))
}

// PodsOfBinding returns requests for the pods with the binding's selector. index is one of the
// indexes of pods by selector.
func PodsOfBinding(ctx context.Context, cache client.Reader, index string, rules identity.Rules, binding *v1.AzureIdentityBinding) []reconcile.Request {
	if binding.Spec.Selector == "" {
		return nil
	}
	options := []client.ListOption{client.MatchingFields{index: binding.Spec.Selector}}
	if rules.ForceNamespaced {
		options = append(options, client.InNamespace(binding.Namespace))
	}
	return Pods(ctx, cache, options...)
}

// PodsOfIdentity returns requests for the pods of all bindings of an identity.
func PodsOfIdentity(ctx context.Context, cache client.Reader, index string, rules identity.Rules, id client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, binding := range BindingsOfIdentity(ctx, cache, id) {
		requests = append(requests, PodsOfBinding(ctx, cache, index, rules, binding)...)
	}
	return requests
}

// Requests returns a request for each object.
func Requests[T client.Object](objects []T) []reconcile.Request {
	requests := make([]reconcile.Request, 0, len(objects))
	for _, o := range objects {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o)})
	}
	return requests
}
