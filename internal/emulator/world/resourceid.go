// ARM resource IDs, as far as the emulator needs them.

package world

import (
	"fmt"
	"strings"
)

// IdentityID is a parsed ARM ID of a user-assigned identity.
type IdentityID struct {
	SubscriptionID, ResourceGroup, Name string
}

// ParseIdentityID reads
// /subscriptions/S/resourceGroups/G/providers/Microsoft.ManagedIdentity/userAssignedIdentities/N in
// any case.
func ParseIdentityID(id string) (IdentityID, error) {
	parts := strings.Split(id, "/")
	fixed := map[int]string{
		0: "", 1: "subscriptions", 3: "resourcegroups", 5: "providers",
		6: "microsoft.managedidentity", 7: "userassignedidentities",
	}
	bad := fmt.Errorf("identity ID %q: expected /subscriptions/<subscription>/resourceGroups/<group>/providers/"+
		"Microsoft.ManagedIdentity/userAssignedIdentities/<name>", id)
	if len(parts) != 9 {
		return IdentityID{}, bad
	}
	for i, want := range fixed {
		if !EqualFold(parts[i], want) {
			return IdentityID{}, bad
		}
	}
	parsed := IdentityID{SubscriptionID: parts[2], ResourceGroup: parts[4], Name: parts[8]}
	if parsed.SubscriptionID == "" || parsed.ResourceGroup == "" || parsed.Name == "" {
		return IdentityID{}, bad
	}
	return parsed, nil
}

// String returns the ID in the spelling of Azure's compute service, with a lower-case
// "resourcegroups". A client that compares IDs byte for byte fails on Azure too.
func (i IdentityID) String() string {
	return "/subscriptions/" + i.SubscriptionID + "/resourcegroups/" + i.ResourceGroup +
		"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + i.Name
}

// Kind distinguishes VMs from scale sets.
type Kind string

// The two kinds, as in ARM paths.
const (
	VM   Kind = "virtualMachines"
	VMSS Kind = "virtualMachineScaleSets"
)

// MachineID names a VM or scale set. Use Key to compare.
type MachineID struct {
	Kind                                Kind
	SubscriptionID, ResourceGroup, Name string
}

// String returns the ARM resource ID.
func (m MachineID) String() string {
	return "/subscriptions/" + m.SubscriptionID + "/resourceGroups/" + m.ResourceGroup +
		"/providers/Microsoft.Compute/" + string(m.Kind) + "/" + m.Name
}

// Key returns the canonical form, which is equal for the same machine.
func (m MachineID) Key() string { return Fold(m.String()) }
