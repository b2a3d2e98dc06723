// What there is to remove.

package uninstall

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ledger"
)

// Names are the names of MIC's own objects, which its flags choose.
type Names struct {
	// Namespace to clean up; empty for all.
	Namespace string
	// Lease is the name of the leader's Lease, ConfigMap that of the type upgrade's record.
	Lease, ConfigMap string
}

// State is what a cluster has of podid.
type State struct {
	Assigned    []v1.AzureAssignedIdentity
	Identities  []v1.AzureIdentity
	Bindings    []v1.AzureIdentityBinding
	Definitions []metav1.PartialObjectMetadata // podid's CRDs

	// Pods of the whole cluster by namespace/name, with only the fields that are used.
	Pods map[client.ObjectKey]*corev1.Pod
	// Nodes by name, with their provider ID.
	Nodes map[string]string

	Ledgers []corev1.ConfigMap
	// Records are the ConfigMaps of the type upgrade.
	Records []corev1.ConfigMap
	Leases  []coordinationv1.Lease
	// Deployments that may be MIC.
	Deployments []appsv1.Deployment
	// Namespace that was read; empty for all.
	Namespace string
}

// Scheme returns a scheme of the kinds that are read and written here.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(s), v1.AddToScheme(s)); err != nil {
		return nil, fmt.Errorf("register kinds: %w", err)
	}
	return s, nil
}

// pageSize bounds one response of the API server.
const pageSize = 500

// Read reads the cluster. CRDs that no longer exist are not an error.
func Read(ctx context.Context, c client.Reader, names Names) (*State, error) {
	s := &State{Pods: map[client.ObjectKey]*corev1.Pod{}, Nodes: map[string]string{}, Namespace: names.Namespace}
	inNamespace := client.InNamespace(names.Namespace)
	managed := client.MatchingLabels{ledger.ManagedByLabel: ledger.ManagedBy}
	for _, err := range []error{
		each(ctx, c, &v1.AzureAssignedIdentityList{}, into(&s.Assigned), inNamespace),
		each(ctx, c, &v1.AzureIdentityList{}, into(&s.Identities)),
		each(ctx, c, &v1.AzureIdentityBindingList{}, into(&s.Bindings)),
		each(ctx, c, &corev1.PodList{}, s.addPod),
		each(ctx, c, &corev1.NodeList{}, func(o *corev1.Node) { s.Nodes[o.Name] = o.Spec.ProviderID }),
		each(ctx, c, &corev1.ConfigMapList{}, into(&s.Ledgers), inNamespace, managed),
		each(ctx, c, &corev1.ConfigMapList{}, into(&s.Records), inNamespace, named(names.ConfigMap)),
		each(ctx, c, &coordinationv1.LeaseList{}, into(&s.Leases), named(names.Lease)),
		each(ctx, c, &appsv1.DeploymentList{}, s.addDeployment),
		s.readDefinitions(ctx, c),
	} {
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// into returns a function that appends to a list.
func into[T any](list *[]T) func(*T) { return func(o *T) { *list = append(*list, *o) } }

func named(name string) client.ListOption { return client.MatchingFields{"metadata.name": name} }

// addPod keeps the fields of a pod that are used, so that large clusters fit into memory.
func (s *State) addPod(pod *corev1.Pod) {
	slim := &corev1.Pod{}
	slim.Namespace, slim.Name, slim.Labels = pod.Namespace, pod.Name, pod.Labels
	slim.Spec.NodeName, slim.Status.Phase = pod.Spec.NodeName, pod.Status.Phase
	s.Pods[client.ObjectKeyFromObject(pod)] = slim
}

// component is the label of MIC's Deployment in both charts.
const component = "app.kubernetes.io/component"

// addDeployment keeps MIC's Deployment.
func (s *State) addDeployment(d *appsv1.Deployment) {
	if d.Labels[component] == "mic" || d.Labels["component"] == "mic" || d.Name == "mic" {
		s.Deployments = append(s.Deployments, *d)
	}
}

func (s *State) readDefinitions(ctx context.Context, c client.Reader) error {
	for _, resource := range []string{
		"azureidentities", "azureidentitybindings", "azureassignedidentities", "azurepodidentityexceptions",
	} {
		crd := metav1.PartialObjectMetadata{}
		crd.SetGroupVersionKind(definitionKind())
		key := client.ObjectKey{Name: resource + "." + v1.GroupVersion.Group}
		switch err := c.Get(ctx, key, &crd); {
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err): // only deletion matters
		case err != nil:
			return fmt.Errorf("read custom resource definition %s: %w", key.Name, err)
		default:
			s.Definitions = append(s.Definitions, crd)
		}
	}
	return nil
}

func definitionKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}
}

// each reads a list page by page and calls visit for every item. A kind that the API server does
// not have has no items.
func each[T any](
	ctx context.Context, c client.Reader, list client.ObjectList, visit func(*T), options ...client.ListOption,
) error {
	for {
		page := append([]client.ListOption{client.Limit(pageSize), client.Continue(list.GetContinue())}, options...)
		err := c.List(ctx, list, page...)
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list %T: %w", *new(T), err)
		}
		err = meta.EachListItem(list, func(o runtime.Object) error {
			if item, ok := o.(any).(*T); ok {
				visit(item)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list %T: %w", *new(T), err)
		}
		if list.GetContinue() == "" {
			return nil
		}
	}
}
