// The contents of MIC's caches. They hold only what the controllers read, to save memory in
// clusters with thousands of pods.

package controllers

import (
	"context"
	"fmt"
	"hash/fnv"
	"reflect"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	crcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/identitystatus"
	"github.com/podid-io/podid/internal/controllers/lookup"
	"github.com/podid-io/podid/internal/controllers/readiness"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/listwatch"
)

// Scheme returns a scheme with the kinds of Kubernetes and of podid.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("register Kubernetes' kinds: %w", err)
	}
	if err := v1.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("register podid's kinds: %w", err)
	}
	return s, nil
}

// CacheOptions returns the options of a manager's cache. It holds only pods with a binding label,
// and of each object only what the controllers read. Reading any other kind through the cache
// fails.
func CacheOptions() (crcache.Options, error) {
	labelled, err := labels.NewRequirement(v1.BindingLabel, selection.Exists, nil)
	if err != nil {
		return crcache.Options{}, fmt.Errorf("select pods by label %s: %w", v1.BindingLabel, err)
	}
	return crcache.Options{
		ReaderFailOnMissingInformer: true,
		DefaultTransform:            crcache.TransformStripManagedFields(),
		ByObject: map[client.Object]crcache.ByObject{
			&corev1.Pod{}:               {Label: labels.NewSelector().Add(*labelled), Transform: slimPod},
			&corev1.Node{}:              {Transform: slimNode},
			&v1.AzureIdentity{}:         {Transform: slimIdentity},
			&v1.AzureIdentityBinding{}:  {Transform: slimBinding},
			&v1.AzureAssignedIdentity{}: {Transform: newShared().slimAssigned},
		},
	}, nil
}

// Cached returns one object of each cached kind.
func Cached() []client.Object {
	return []client.Object{
		&corev1.Pod{}, &corev1.Node{}, &v1.AzureIdentity{}, &v1.AzureIdentityBinding{}, &v1.AzureAssignedIdentity{},
	}
}

// Streams lists the kinds of a cache object by object. Each object is reduced to what is kept
// before the next one is read.
type Streams struct {
	kinds map[reflect.Type]listwatch.Kind
}

// NewStreams creates the clients for a cache with these options. It sends no request.
func NewStreams(config *rest.Config, options crcache.Options) (*Streams, error) {
	s, err := Scheme()
	if err != nil {
		return nil, err
	}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for lists: %w", err)
	}
	codecs := serializer.NewCodecFactory(s)
	streams := &Streams{kinds: map[reflect.Type]listwatch.Kind{}}
	for object, by := range options.ByObject {
		gvk, err := apiutil.GVKForObject(object, s)
		if err != nil {
			return nil, fmt.Errorf("find the kind of %T: %w", object, err)
		}
		c, err := apiutil.RESTClientForGVK(gvk, false, false, config, codecs, httpClient)
		if err != nil {
			return nil, fmt.Errorf("make a client for lists of %s: %w", gvk.Kind, err)
		}
		resource, _ := meta.UnsafeGuessKindToResource(gvk) // correct for all of Cached
		streams.kinds[reflect.TypeOf(object)] = listwatch.Kind{
			Client: c, Resource: resource.Resource, New: object.DeepCopyObject, Strip: by.Transform,
			Narrow: func(o *metav1.ListOptions) {
				if by.Label != nil {
					o.LabelSelector = by.Label.String()
				}
			},
		}
	}
	return streams, nil
}

// Of returns a ListerWatcher that watches with inner and lists as a stream. For a kind that the
// options do not name it returns inner.
func (s *Streams) Of(object runtime.Object, inner toolscache.ListerWatcher) toolscache.ListerWatcher {
	if kind, ok := s.kinds[reflect.TypeOf(object)]; ok {
		return listwatch.Stream(inner, kind)
	}
	return inner
}

// slimPod reduces a pod to what the controllers read.
func slimPod(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	slim := &corev1.Pod{ObjectMeta: slimMeta(pod.ObjectMeta)}
	if selector, ok := pod.Labels[v1.BindingLabel]; ok {
		slim.Labels = map[string]string{v1.BindingLabel: selector}
	}
	slim.Spec.NodeName, slim.Spec.HostNetwork = pod.Spec.NodeName, pod.Spec.HostNetwork
	slim.Spec.ServiceAccountName = pod.Spec.ServiceAccountName
	slim.Status.Phase = pod.Status.Phase
	slimReadiness(slim, pod)
	return slim, nil
}

// slimReadiness keeps podid's readiness gate and condition, if the pod has them. Most pods have
// neither.
func slimReadiness(slim, pod *corev1.Pod) {
	for _, gate := range pod.Spec.ReadinessGates {
		if gate.ConditionType == v1.PodConditionAssigned {
			slim.Spec.ReadinessGates = []corev1.PodReadinessGate{gate}
			slim.CreationTimestamp = pod.CreationTimestamp
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == v1.PodConditionAssigned {
			slim.Status.Conditions = []corev1.PodCondition{condition}
		}
	}
}

// slimNode reduces a node to what the controllers read.
func slimNode(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	slim := &corev1.Node{ObjectMeta: slimMeta(node.ObjectMeta)}
	slim.Spec.ProviderID = node.Spec.ProviderID
	if kubelet := node.Labels[v1.KubeletIdentityLabel]; kubelet != "" {
		slim.Labels = map[string]string{v1.KubeletIdentityLabel: kubelet}
	}
	return slim, nil
}

// slimIdentity reduces an identity to what the controllers read.
func slimIdentity(o any) (any, error) {
	id, ok := o.(*v1.AzureIdentity)
	if !ok {
		return o, nil
	}
	slim := &v1.AzureIdentity{ObjectMeta: slimMeta(id.ObjectMeta), Spec: id.Spec, Status: id.Status}
	slim.Generation, slim.CreationTimestamp = id.Generation, id.CreationTimestamp
	slim.Annotations = identity.Annotations(id.Annotations)
	slim.Labels = fingerprint(id.ObjectMeta)
	slim.Spec.AzureIdentityOldSpelling = v1.AzureIdentityOldSpelling{}
	return slim, nil
}

// fingerprintLabel replaces the labels and annotations of a cached identity.
const fingerprintLabel = "podid-fingerprint"

// fingerprint returns labels that change whenever the object's labels or annotations do: an
// identity in quarantine is tried again when its object changes. Applied to its own result, it
// returns that unchanged.
func fingerprint(m metav1.ObjectMeta) map[string]string {
	if _, done := m.Labels[fingerprintLabel]; done && len(m.Labels) == 1 {
		return m.Labels
	}
	var sum uint64
	for i, all := range []map[string]string{m.Labels, m.Annotations} {
		for name, value := range all {
			h := fnv.New64a()
			_, _ = fmt.Fprintf(h, "%d %s=%s", i, name, value)
			sum += h.Sum64()
		}
	}
	if sum == 0 {
		return nil
	}
	return map[string]string{fingerprintLabel: strconv.FormatUint(sum, 36)}
}

// slimBinding reduces a binding to what the controllers read.
func slimBinding(o any) (any, error) {
	binding, ok := o.(*v1.AzureIdentityBinding)
	if !ok {
		return o, nil
	}
	slim := &v1.AzureIdentityBinding{ObjectMeta: slimMeta(binding.ObjectMeta), Spec: binding.Spec}
	slim.Generation, slim.CreationTimestamp = binding.Generation, binding.CreationTimestamp
	slim.Spec.AzureIdentityBindingOldSpelling = v1.AzureIdentityBindingOldSpelling{}
	return slim, nil
}

func slimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
		DeletionTimestamp: m.DeletionTimestamp,
	}
}

// addIndexes adds the indexes of package lookup.
func addIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, index := range []struct {
		kind client.Object
		name string
		keys func(client.Object) []string
	}{
		{&corev1.Node{}, lookup.NodesByGroup, groupOfNode},
		{&corev1.Pod{}, lookup.PodsBySelector, func(o client.Object) []string { return some(o.GetLabels()[v1.BindingLabel]) }},
		{&corev1.Pod{}, lookup.PodsByNode, nodeOfPod},
		{&v1.AzureIdentityBinding{}, lookup.BindingsBySelector, selectorOfBinding},
		{&v1.AzureIdentityBinding{}, lookup.BindingsByIdentity, identityOfBinding},
		{&v1.AzureIdentity{}, lookup.IdentitiesByOwner, ownerOfIdentity},
		{&v1.AzureAssignedIdentity{}, lookup.AssignedByPod, podOfAssigned},
		{&v1.AzureAssignedIdentity{}, lookup.AssignedByNode, nodeOfAssigned},
		{&v1.AzureAssignedIdentity{}, lookup.AssignedByIdentity, identityOfAssigned},
		{&corev1.Pod{}, lookup.GatedPodsBySelector, selectorOfConcerned},
	} {
		if err := indexer.IndexField(ctx, index.kind, index.name, index.keys); err != nil {
			return fmt.Errorf("index %T by %s: %w", index.kind, index.name, err)
		}
	}
	return nil
}

func groupOfNode(o client.Object) []string {
	node, ok := o.(*corev1.Node)
	if !ok {
		return nil
	}
	group, err := compute.ParseProviderID(node.Spec.ProviderID)
	if err != nil {
		return nil
	}
	return []string{group.ResourceID()}
}

func nodeOfPod(o client.Object) []string {
	if pod, ok := o.(*corev1.Pod); ok {
		return some(pod.Spec.NodeName)
	}
	return nil
}

func selectorOfBinding(o client.Object) []string {
	if binding, ok := o.(*v1.AzureIdentityBinding); ok {
		return some(binding.Spec.Selector)
	}
	return nil
}

func ownerOfIdentity(o client.Object) []string {
	if id, ok := o.(*v1.AzureIdentity); ok && identity.Shared(id) {
		return []string{id.Spec.SharedFrom.Namespace + "/" + id.Spec.SharedFrom.Name}
	}
	return nil
}

func identityOfBinding(o client.Object) []string {
	if binding, ok := o.(*v1.AzureIdentityBinding); ok {
		return some(binding.Spec.AzureIdentity)
	}
	return nil
}

// podOfAssigned returns the index key of an assigned identity's pod. For objects that name no pod
// it is "/", which matches no pod, so that they are removed.
func podOfAssigned(o client.Object) []string {
	if assigned, ok := o.(*v1.AzureAssignedIdentity); ok {
		return []string{assigned.Spec.PodNamespace + "/" + assigned.Spec.Pod}
	}
	return nil
}

func nodeOfAssigned(o client.Object) []string {
	if assigned, ok := o.(*v1.AzureAssignedIdentity); ok {
		return some(assigned.Spec.NodeName)
	}
	return nil
}

func identityOfAssigned(o client.Object) []string {
	if assigned, ok := o.(*v1.AzureAssignedIdentity); ok {
		return identitystatus.Keys(assigned)
	}
	return nil
}

// selectorOfConcerned returns the index key of pods with podid's readiness gate or condition.
func selectorOfConcerned(o client.Object) []string {
	if pod, ok := o.(*corev1.Pod); ok && readiness.Concerned(pod) {
		return some(pod.Labels[v1.BindingLabel])
	}
	return nil
}

// some returns the index key, or no key if it is empty.
func some(key string) []string {
	if key == "" {
		return nil
	}
	return []string{key}
}
