// Node groups, which Azure assigns identities to, and their names in provider IDs.

package compute

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/podid-io/podid/internal/ascii"
)

// Kind is the kind of a node group.
type Kind string

const (
	// VM is one virtual machine: a standalone one, one of an availability set, or an instance of a
	// flexible scale set. Azure treats the latter as independent machines; the scale set's identities
	// do not apply to them.
	VM Kind = "vm"
	// VMSS is a uniform scale set: its instances share one set of identities.
	VMSS Kind = "vmss"
)

// resourceTypes are the ARM resource types of the kinds, in Azure's spelling.
const (
	vmType   = "virtualMachines"
	vmssType = "virtualMachineScaleSets"
)

// Group is what Azure assigns identities to. It can be used as a map key: every part is lower case,
// because Azure's names are case-insensitive and Azure's responses differ in spelling.
type Group struct {
	Kind           Kind
	SubscriptionID string
	ResourceGroup  string
	Name           string
}

// String returns the short form for logs and queue keys: kind/resource group/name.
func (g Group) String() string {
	return string(g.Kind) + "/" + g.ResourceGroup + "/" + g.Name
}

// ResourceID returns the group's ARM resource ID.
func (g Group) ResourceID() string {
	resourceType := vmType
	if g.Kind == VMSS {
		resourceType = vmssType
	}
	return "/subscriptions/" + g.SubscriptionID + "/resourceGroups/" + g.ResourceGroup +
		"/providers/Microsoft.Compute/" + resourceType + "/" + g.Name
}

// providerScheme is the prefix of the provider ID on every node that a cloud provider for Azure has
// initialized.
const providerScheme = "azure://"

// ParseProviderID returns the node group that a node belongs to, from its spec.providerID:
//
//	azure:///subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/virtualMachines/NAME
//	azure:///subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/virtualMachineScaleSets/NAME/virtualMachines/3
//
// Letter case does not matter. An instance of a flexible scale set has the first form. The error of
// anything else says what to check.
func ParseProviderID(providerID string) (Group, error) {
	if providerID == "" {
		return Group{}, errors.New("the node has no provider ID: " +
			"Azure's cloud provider has not initialised it yet, or none runs in this cluster")
	}
	scheme, path, found := strings.Cut(providerID, "://")
	if !found || !ascii.EqualFold(scheme+"://", providerScheme) {
		return Group{}, fmt.Errorf("provider ID %q is not Azure's: expected %s/subscriptions/...; "+
			"the node is not an Azure virtual machine", shorten(providerID), providerScheme)
	}
	group, ok := parseGroup(path)
	if !ok {
		return Group{}, fmt.Errorf("provider ID %q names neither a virtual machine nor an instance of a scale set: expected "+
			"%s/subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/virtualMachines/NAME or "+
			".../virtualMachineScaleSets/NAME/virtualMachines/N", shorten(providerID), providerScheme)
	}
	return group, nil
}

// Patterns of the ARM resource IDs of a virtual machine and of a scale set's instance, in lower
// case. Each * stands for one segment.
const (
	machinePattern  = "/subscriptions/*/resourcegroups/*/providers/microsoft.compute/virtualmachines/*"
	instancePattern = "/subscriptions/*/resourcegroups/*/providers/microsoft.compute/virtualmachinescalesets/*/virtualmachines/*"
)

// parseGroup reads the ARM resource ID of a virtual machine or of a scale set's instance.
func parseGroup(resourceID string) (Group, bool) {
	path := ascii.Loose(resourceID) // nodes of one group may spell it differently
	kind, found := VM, capture(machinePattern, path)
	if found == nil {
		kind, found = VMSS, capture(instancePattern, path)
		if found == nil || !isNumber(found[3]) {
			return Group{}, false
		}
	}
	for _, segment := range found[:3] {
		if !validSegment(segment) {
			return Group{}, false
		}
	}
	return Group{Kind: kind, SubscriptionID: found[0], ResourceGroup: found[1], Name: found[2]}, true
}

// capture returns the segments of the path for which the pattern has a *, or nil if the path does
// not match.
func capture(pattern, path string) []string {
	expected, parts := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(parts) != len(expected) {
		return nil
	}
	var found []string
	for i, part := range parts {
		switch expected[i] {
		case "*":
			found = append(found, part)
		case part:
		default:
			return nil
		}
	}
	return found
}

// validSegment reports whether s may be the name of a subscription, resource group, machine or
// scale set. Azure allows letters and digits (of any language in resource groups), and - _ . ( ).
// Nothing else may reach the path of a request.
func validSegment(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > 256 {
		return false
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', strings.ContainsRune("-_.()", r):
		case r > 0x7f && r != 0xfffd:
		default:
			return false
		}
	}
	return true
}

// isNumber reports whether s is the ordinal of an instance of a uniform scale set.
func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

// shorten bounds how much of a malicious object reaches the log.
func shorten(s string) string {
	const limit = 256
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
