// What MIC keeps in memory of the cluster: no more than its controllers look at,
// so that thousands of pods cost little.

package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/kubernetes/scheme"
	crcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/assignedidentity"
	"github.com/podid-io/podid/internal/controllers/attachment"
	"github.com/podid-io/podid/internal/controllers/identitystatus"
	"github.com/podid-io/podid/internal/controllers/readiness"
	"github.com/podid-io/podid/internal/controllers/sharing"
)

// Scheme knows Kubernetes' own kinds and ours.
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

// CacheOptions are for a manager's cache: pods with a binding label only, and of
// pods and nodes only what is looked at. Reading any other kind through the
// cache is a mistake and fails.
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
			&v1.AzureAssignedIdentity{}: {Transform: newShared().slimAssigned},
		},
	}, nil
}

// Cached are the kinds in the cache.
func Cached() []client.Object {
	return []client.Object{
		&corev1.Pod{}, &corev1.Node{}, &v1.AzureIdentity{}, &v1.AzureIdentityBinding{}, &v1.AzureAssignedIdentity{},
	}
}

// slimPod keeps of a pod what the controllers look at.
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
	slim.Status.Phase = pod.Status.Phase
	slimReadiness(slim, pod)
	return slim, nil
}

// slimReadiness keeps whether the pod names our readiness gate, and our condition.
// Most pods have neither.
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

// slimNode keeps of a node what the controllers look at.
func slimNode(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	slim := &corev1.Node{ObjectMeta: slimMeta(node.ObjectMeta)}
	slim.Spec.ProviderID = node.Spec.ProviderID
	return slim, nil
}

func slimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
		DeletionTimestamp: m.DeletionTimestamp,
	}
}

// addIndexes makes the lookups that the controllers ask for.
func addIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, index := range []struct {
		kind client.Object
		name string
		keys func(client.Object) []string
	}{
		{&corev1.Node{}, attachment.NodesByGroup, groupOfNode},
		{&corev1.Pod{}, assignedidentity.PodsBySelector, func(o client.Object) []string { return some(o.GetLabels()[v1.BindingLabel]) }},
		{&corev1.Pod{}, assignedidentity.PodsByNode, nodeOfPod},
		{&v1.AzureIdentityBinding{}, assignedidentity.BindingsBySelector, selectorOfBinding},
		{&v1.AzureIdentityBinding{}, assignedidentity.BindingsByIdentity, identityOfBinding},
		{&v1.AzureIdentity{}, sharing.ByOwner, sharing.Keys},
		{&v1.AzureAssignedIdentity{}, assignedidentity.AssignedByPod, podOfAssigned},
		{&v1.AzureAssignedIdentity{}, assignedidentity.AssignedByNode, nodeOfAssigned},
		{&v1.AzureAssignedIdentity{}, identitystatus.AssignedByIdentity, identityOfAssigned},
		{&corev1.Pod{}, readiness.ConcernedBySelector, selectorOfConcerned},
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

func identityOfBinding(o client.Object) []string {
	if binding, ok := o.(*v1.AzureIdentityBinding); ok {
		return some(binding.Spec.AzureIdentity)
	}
	return nil
}

// podOfAssigned is also the key of objects that name no pod: "/", which no pod
// answers to, so that they are removed.
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

// selectorOfConcerned is the key of pods with our readiness gate or condition.
func selectorOfConcerned(o client.Object) []string {
	if pod, ok := o.(*corev1.Pod); ok && readiness.Concerned(pod) {
		return some(pod.Labels[v1.BindingLabel])
	}
	return nil
}

// some is the index key, none when it is empty.
func some(key string) []string {
	if key == "" {
		return nil
	}
	return []string{key}
}
