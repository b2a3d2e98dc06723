package controllers_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/reason"
)

// TestFleet covers several node groups, and groups that change.
func TestFleet(t *testing.T) {
	runStories(t, startServer(t), "", stories{
		{"mixed fleet", mixedFleet},
		{"namespace deleted quietly", deletedQuietly},
	})
}

// place is a node of a fleet and its node group.
type place struct {
	node, providerID string
	group            compute.Group
}

func mixedFleet(t *testing.T, w *world) {
	const other = "99999999-2222-3333-4444-aaaaaaaaaaaa"
	id := func(subscription, resourceGroup, rest string) string {
		return "azure:///subscriptions/" + subscription + "/resourceGroups/" + resourceGroup + "/providers/Microsoft.Compute/" + rest
	}
	group := func(kind compute.Kind, subscription, resourceGroup, name string) compute.Group {
		return compute.Group{Kind: kind, SubscriptionID: subscription, ResourceGroup: resourceGroup, Name: name}
	}
	places := []place{
		{"vm", id(subscription, "nodes", "virtualMachines/worker-0"), group(compute.VM, subscription, "nodes", "worker-0")},
		{"vm-upper", strings.ToUpper(id(subscription, "nodes", "virtualMachines/worker-1")), group(compute.VM, subscription, "nodes", "worker-1")},
		// An instance of a flexible scale set is a separate VM.
		{"flexible", id(subscription, "MC_rg_Cluster_westEurope", "virtualMachines/Flex_1a2b3c"), group(compute.VM, subscription, "mc_rg_cluster_westeurope", "flex_1a2b3c")},
		{"pool", id(subscription, "nodes", "virtualMachineScaleSets/pool/virtualMachines/0"), group(compute.VMSS, subscription, "nodes", "pool")},
		{"pool-second", id(subscription, "NODES", "virtualmachinescalesets/Pool/virtualmachines/17"), group(compute.VMSS, subscription, "nodes", "pool")},
		// The same name in another resource group, in another subscription, and as a VM.
		{"pool-rg", id(subscription, "others", "virtualMachineScaleSets/pool/virtualMachines/0"), group(compute.VMSS, subscription, "others", "pool")},
		{"pool-sub", id(strings.ToUpper(other), "nodes", "virtualMachineScaleSets/POOL/virtualMachines/0"), group(compute.VMSS, other, "nodes", "pool")},
		{"pool-vm", id(subscription, "nodes", "virtualMachines/pool"), group(compute.VM, subscription, "nodes", "pool")},
	}
	want := map[compute.Group][]string{}
	for _, p := range places {
		want[p.group] = append(want[p.group], p.node)
		w.cloud.SetGroup(p.group, compute.Identities{})
		w.cloud.AddIdentities(resourceID(p.node))
		w.fleetNode(p.node, p.providerID)
	}
	for node, providerID := range map[string]string{"bare": "", "ec2": "aws:///eu-west-1a/i-0123456789abcdef0", "laptop": "kind://docker/kind/kind-worker"} {
		w.fleetNode(node, providerID)
	}
	w.start()
	for _, node := range w.nodes[2:] {
		w.identity(node)
		w.create(w.newPod("on-"+node, node, node))
	}
	for _, p := range places {
		w.waitState("on-"+p.node, v1.StateAssigned)
	}
	for _, node := range []string{"bare", "ec2", "laptop"} {
		if got := w.waitState("on-"+node, v1.StateCreated); got.Status.Reason != reason.NodeNotOnAzure.Name() {
			t.Errorf("pod on %s: %+v", node, got.Status)
		}
	}
	for group, names := range want {
		have, err := w.cloud.Get(t.Context(), group)
		w.must(err)
		got := []string{}
		for _, id := range have.UserAssigned {
			got = append(got, filepath.Base(id))
		}
		slices.Sort(names)
		if !slices.Equal(got, names) {
			t.Errorf("%s in subscription %s has %v, want %v", group, group.SubscriptionID, got, names)
		}
	}
	for _, call := range w.cloud.Calls() {
		if _, known := want[call.Group]; !known && call.Group != w.group {
			t.Errorf("%s of %+v, which is nobody's group", call.Operation, call.Group)
		}
	}
}

// fleetNode creates a node that is deleted with the world.
func (w *world) fleetNode(name, providerID string) {
	w.t.Helper()
	w.nodes = append(w.nodes, name)
	w.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: providerID}})
}

// deletedQuietly deletes a namespace full of pods, which must not cause errors.
func deletedQuietly(t *testing.T, w *world) {
	w.config.LedgerNamespace = "default"
	complaints := w.logged("rejected event", "write event", "terminated")
	w.managed("red")
	w.identity("bad")
	w.start()
	for i := range 10 {
		w.pod(fmt.Sprintf("p%d", i), "red")
		w.gated(fmt.Sprintf("q%d", i), "bad")
	}
	w.waitState("p9", v1.StateAssigned)
	w.waitCondition("q9", corev1.ConditionFalse, "IdentityRefused")

	w.delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}})
	for _, kind := range []client.Object{&v1.AzureIdentity{}, &v1.AzureAssignedIdentity{}, &v1.AzureIdentityBinding{}, &corev1.Pod{}} {
		w.must(w.client.DeleteAllOf(t.Context(), kind, client.InNamespace(w.namespace), client.GracePeriodSeconds(0)))
	}
	for i := range 10 {
		w.waitNone(fmt.Sprintf("p%d", i))
		w.waitNone(fmt.Sprintf("q%d", i))
	}
	w.waitHas()
	w.stop()
	if lines := complaints(""); len(lines) > 0 {
		t.Errorf("%d errors in the log: %s", len(lines), strings.Join(lines, "\n"))
	}
}
