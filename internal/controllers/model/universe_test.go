// The small set of objects in histories. Names are chosen so that objects of different pairs would
// share v1.8.17's name.

package model

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/identity"
)

const (
	subscription = "11111111-2222-3333-4444-555555555555"
	other        = "66666666-7777-8888-9999-000000000000"
	resources    = 5
)

func pods() []types.NamespacedName {
	return []types.NamespacedName{
		{Namespace: "x", Name: "a"},
		{Namespace: "x", Name: "b"},
		{Namespace: "x", Name: "a-x"},
		{Namespace: "x-x", Name: "a"},
		{Namespace: "x-x", Name: "b"},
	}
}

func identities() []types.NamespacedName {
	return []types.NamespacedName{
		{Namespace: "x", Name: "i"},
		{Namespace: "x", Name: "j"},
		{Namespace: "x", Name: "k"},
		{Namespace: "x-x", Name: "i"},
		{Namespace: "x-x", Name: "j"},
	}
}

func bindings() []types.NamespacedName {
	return []types.NamespacedName{
		{Namespace: "x", Name: "r"},
		{Namespace: "x", Name: "s"},
		{Namespace: "x", Name: "t"},
		{Namespace: "x-x", Name: "r"},
		{Namespace: "x-x", Name: "s"},
	}
}

// The values of the binding label. "" means no label.
func colours() []string { return []string{"red", "blue", ""} }

// groups returns the node groups: the scale set of the first two nodes, the VM of the third, and
// the later group of the fourth.
func groups() []compute.Group {
	return []compute.Group{
		{Kind: compute.VMSS, SubscriptionID: subscription, ResourceGroup: "rg", Name: "set"},
		{Kind: compute.VM, SubscriptionID: subscription, ResourceGroup: "rg", Name: "vm"},
		{Kind: compute.VMSS, SubscriptionID: other, ResourceGroup: "rg2", Name: "late"},
	}
}

// providerIDs returns the provider IDs of the nodes n0, n1, ...
func providerIDs() []string {
	vmss := "azure:///subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/virtualMachineScaleSets/%s/virtualMachines/%d"
	return []string{
		fmt.Sprintf(vmss, subscription, "RG", "SET", 0), fmt.Sprintf(vmss, subscription, "rg", "set", 1),
		"azure:///subscriptions/" + subscription + "/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm",
		fmt.Sprintf(vmss, other, "rg2", "late", 0),
		"kind://elsewhere/n4",
	}
}

func nodeName(n int) string { return fmt.Sprintf("n%d", n%len(providerIDs())) }

// resourceID returns the ID of the n-th managed identity.
func resourceID(n int) string {
	return fmt.Sprintf("/subscriptions/%s/resourceGroups/ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id%d", subscription, n%resources)
}

// keys returns the keys of all managed identities.
func (w *world) keys() []string {
	out := make([]string, 0, resources+w.setup.Crowd)
	for n := range resources {
		out = append(out, strings.ToLower(resourceID(n)))
	}
	for n := range w.setup.Crowd {
		out = append(out, strings.ToLower(crowdID(n)))
	}
	return out
}

// crowdSelector returns the binding label of pods that are granted very many identities. A pod can
// have at most identity.MaxIdentities, so they are spread over several selectors.
func crowdSelector(n int) string { return fmt.Sprintf("crowd%d", n/identity.MaxIdentities) }

func crowdID(n int) string {
	return strings.TrimSuffix(resourceID(0), "id0") + fmt.Sprintf("crowd%d", n)
}

func newNode(n int, providerID string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(n)}, Spec: corev1.NodeSpec{ProviderID: providerID}}
}

func newPod(name types.NamespacedName, node, colour string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, Labels: map[string]string{"app": "it"}}}
	if colour != "" {
		pod.Labels[v1.BindingLabel] = colour
	}
	pod.Spec.NodeName = node
	return pod
}

func newIdentity(name types.NamespacedName, resource int) *v1.AzureIdentity {
	return &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
		Spec:       v1.AzureIdentitySpec{ResourceID: resourceID(resource)},
	}
}

func newBinding(name types.NamespacedName, identity, colour string) *v1.AzureIdentityBinding {
	return &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: identity, Selector: colour},
	}
}

// populate creates what every history begins with.
func (w *world) populate() {
	for n := range 3 {
		must(w.server.create(newNode(n, providerIDs()[n])))
	}
	for n := range resources - 1 { // the last does not exist
		w.azure.fake.AddIdentities(resourceID(n))
	}
	for _, group := range groups() {
		w.azure.fake.SetGroup(group, compute.Identities{})
	}
	w.azure.handAdd(groups()[0], resourceID(1)) // attached by another client before
	for n, name := range identities() {
		if n != 2 {
			must(w.server.create(newIdentity(name, n%3)))
		}
	}
	for n, name := range bindings() {
		if n != 2 {
			must(w.server.create(newBinding(name, identities()[n].Name, colours()[n%2])))
		}
	}
	for n := range w.setup.Crowd {
		name := types.NamespacedName{Namespace: "x", Name: fmt.Sprintf("crowd%d", n)}
		id := newIdentity(name, 0)
		id.Spec.ResourceID = crowdID(n)
		w.azure.fake.AddIdentities(crowdID(n))
		must(w.server.create(id))
		must(w.server.create(newBinding(name, name.Name, crowdSelector(n))))
	}
}
