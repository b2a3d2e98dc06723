// The emulated Azure of the cluster, and MIC's permissions.
package faults_test

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podid-io/podid/internal/emulator/world"
)

const (
	tenant         = "11111111-1111-4111-8111-111111111111"
	subscriptionA  = "22222222-2222-4222-8222-222222222222"
	subscriptionB  = "22222222-2222-4222-8222-22222222222b"
	operatorClient = "33333333-3333-4333-8333-333333333333"
	otherClient    = "44444444-4444-4444-8444-444444444444"
	operatorObject = "66666666-6666-4666-8666-666666666666"
	goodIdentities = 10
	identityGroup  = "ids"
	forbiddenGroup = "others"
	foreignPrefix  = "foreign-"
	steadyPrefix   = "steady-"
	lastNode       = "pool-3-0" // of its group
	steadyPods     = 6
	secret         = "not-a-real-secret"
)

// group is a VM or scale set with its nodes.
type group struct {
	kind                              world.Kind
	subscription, resourceGroup, name string
	instances                         int
	// system reports whether it has a system-assigned identity.
	system bool
}

// groups returns the node groups: scale sets and VMs, in two subscriptions.
func groups() []group {
	return []group{
		{world.VMSS, subscriptionA, "nodes", "pool-0", 3, true},
		{world.VMSS, subscriptionA, "nodes", "pool-1", 2, false},
		{world.VMSS, subscriptionB, "more-nodes", "pool-2", 2, false},
		{world.VMSS, subscriptionA, "nodes", "pool-3", 1, false},
		{world.VM, subscriptionA, "nodes", "vm-0", 1, true},
		{world.VM, subscriptionB, "more-nodes", "vm-1", 1, false},
	}
}

func (g group) id() world.MachineID {
	return world.MachineID{Kind: g.kind, SubscriptionID: g.subscription, ResourceGroup: g.resourceGroup, Name: g.name}
}

// key returns the node group's ARM ID in lower case.
func (g group) key() string { return fold(g.id().String()) }

// nodes returns the cluster's nodes: those of the groups, some in another spelling, and one that is
// not on Azure.
func nodes() []*corev1.Node {
	list := []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}, Spec: corev1.NodeSpec{ProviderID: "kind://docker/kind/elsewhere"}}}
	for i, g := range groups() {
		for n := range g.instances {
			id := g.id().String()
			if i%2 == 1 {
				id = strings.Replace(id, "/resourceGroups/"+g.resourceGroup, "/resourcegroups/"+strings.ToUpper(g.resourceGroup), 1)
			}
			if g.kind == world.VMSS {
				id += "/virtualMachines/" + strconv.Itoa(n)
			}
			list = append(list, &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: g.name + "-" + strconv.Itoa(n)}, Spec: corev1.NodeSpec{ProviderID: "azure://" + id},
			})
		}
	}
	return list
}

// steadyNodes returns the nodes of the pods that stay: one of every group but pool-3.
func steadyNodes() []string {
	return []string{"pool-0-0", "pool-0-1", "pool-1-0", "pool-2-0", "vm-0-0", "vm-1-0"}
}

func resourceID(group, name string) string {
	return "/subscriptions/" + subscriptionA + "/resourceGroups/" + group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
}

// spelled returns the ID in another spelling.
func spelled(id string) string {
	return strings.Replace(strings.Replace(id, "resourceGroups", "resourcegroups", 1), "/userAssignedIdentities/", "/userassignedidentities/", 1)
}

func goodIDs() (ids []string) {
	for i := range goodIdentities {
		ids = append(ids, resourceID(identityGroup, "good-"+strconv.Itoa(i)))
	}
	return ids
}

func steadyIDs() (ids []string) {
	for i := range steadyPods {
		ids = append(ids, resourceID(identityGroup, steadyPrefix+strconv.Itoa(i)))
	}
	return ids
}

// foreignID is on the group of that name from the start, and no pod needs it.
func foreignID(group string) string { return resourceID(identityGroup, foreignPrefix+group) }

// sharedID is on every scale set from the start, and pods need it as well.
func sharedID() string { return resourceID(identityGroup, foreignPrefix+"shared") }

// The identities that Azure refuses to assign: one that does not exist, one that MIC has no
// permission for, and one that the error does not name.
func missingID() string   { return resourceID(identityGroup, "missing") }
func forbiddenID() string { return resourceID(forbiddenGroup, "forbidden") }
func unnamedID() string   { return resourceID(identityGroup, "unnamed") }

// privateID is on every scale set from the start. MIC has no permission for it.
func privateID() string { return resourceID(forbiddenGroup, foreignPrefix+"private") }

// clusterID is the kubelet's identity.
func clusterID() string { return resourceID(identityGroup, foreignPrefix+"kubelet") }

// clusterIdentities returns those that MIC is configured to protect, and its own.
func clusterIdentities() map[string]bool {
	return map[string]bool{fold(clusterID()): true, clientOf(clusterID()): true, operatorClient: true}
}

// clientOf returns an identity's client ID until it is recreated.
func clientOf(id string) string { return world.GUID(id + "/client") }

func refusedIDs() []string { return []string{missingID(), forbiddenID(), unnamedID()} }

// refusals returns the reasons that MIC must report for them.
func refusals() map[string]string {
	return map[string]string{
		fold(missingID()): "IdentityRefused", fold(unnamedID()): "IdentityRefused", fold(forbiddenID()): "IdentityForbidden",
		fold(privateID()): "IdentityForbidden",
	}
}

// document returns the initial state of the emulated Azure.
func document() world.Document {
	doc := world.Document{
		Location: "westeurope",
		Tenants:  []world.Tenant{{ID: tenant}},
		Subscriptions: []world.Subscription{
			{ID: subscriptionA, Name: "a"}, {ID: subscriptionB, Name: "b"},
		},
		Applications: []world.Application{{
			Name: "operator", ClientID: operatorClient, PrincipalID: operatorObject, Secret: secret,
		}},
		Settings: world.DefaultSettings(),
	}
	doc.Settings.Authorization = world.AuthorizeRoles
	doc.Settings.ARM.RetryAfter = 0
	doc.Settings.Limits.Enabled = false
	for _, scope := range []string{subscriptionA + "/resourceGroups/nodes", subscriptionB + "/resourceGroups/more-nodes"} {
		doc.RoleAssignments = append(doc.RoleAssignments, world.RoleAssignment{
			PrincipalID: operatorObject, Scope: "/subscriptions/" + scope, Role: "Virtual Machine Contributor",
		})
	}
	doc.RoleAssignments = append(doc.RoleAssignments, world.RoleAssignment{
		PrincipalID: operatorObject, Scope: "/subscriptions/" + subscriptionA + "/resourceGroups/" + identityGroup, Role: "Managed Identity Operator",
	})
	for _, id := range slices.Concat(goodIDs(), steadyIDs(), []string{sharedID(), privateID(), clusterID(), forbiddenID(), unnamedID()}) {
		doc.Identities = append(doc.Identities, newIdentity(id))
	}
	for _, g := range groups() {
		doc.Identities = append(doc.Identities, newIdentity(foreignID(g.name)))
		m := world.Machine{SubscriptionID: g.subscription, ResourceGroup: g.resourceGroup, Name: g.name, Identities: g.foreign()}
		if g.system {
			m.SystemAssigned = &world.SystemIdentity{ClientID: world.GUID(g.name + "/client"), PrincipalID: world.GUID(g.name + "/principal")}
		}
		if g.kind == world.VM {
			doc.VirtualMachines = append(doc.VirtualMachines, m)
			continue
		}
		doc.ScaleSets = append(doc.ScaleSets, m)
	}
	return doc
}

// foreign returns the identities on the group before MIC starts.
func (g group) foreign() []string {
	if g.kind == world.VMSS {
		return []string{foreignID(g.name), sharedID(), privateID(), clusterID()}
	}
	return []string{foreignID(g.name)}
}

func newIdentity(id string) world.Identity {
	return world.Identity{
		ResourceID: id, ClientID: clientOf(id), PrincipalID: world.GUID(id + "/principal"),
		Unassignable: id == unnamedID(),
	}
}
