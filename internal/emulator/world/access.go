// Who may do what on ARM.
package world

import "strings"

// roles are the built-in roles that the emulator knows, with the actions that matter to it.
var roles = map[string][]string{
	"owner":       {"*"},
	"contributor": {"*"},
	"reader":      {"*/read"},
	"virtual machine contributor": {
		"microsoft.compute/virtualmachines/*", "microsoft.compute/virtualmachinescalesets/*",
		"microsoft.resources/subscriptions/resourcegroups/read",
	},
	"managed identity operator": {
		"microsoft.managedidentity/userassignedidentities/*/read",
		"microsoft.managedidentity/userassignedidentities/read",
		"microsoft.managedidentity/userassignedidentities/*/assign/action",
		"microsoft.managedidentity/userassignedidentities/assign/action",
		"microsoft.resources/subscriptions/resourcegroups/read",
	},
}

// Allowed says whether a principal may perform an action, such as Microsoft.Compute/virtualMachines/write, on the ARM
// resource ID scope.
func (w *World) Allowed(principalID, action, scope string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.doc.Settings.Authorization == AuthorizeAny {
		return true
	}
	for _, r := range w.doc.RoleAssignments {
		if !strings.EqualFold(r.PrincipalID, principalID) || !within(scope, r.Scope) {
			continue
		}
		for _, actions := range [][]string{roles[fold(r.Role)], r.Actions} {
			for _, pattern := range actions {
				if glob(fold(pattern), fold(action)) {
					return true
				}
			}
		}
	}
	return false
}

// Sees says whether a principal may know of a subscription: it is allowed something in it.
func (w *World) Sees(principalID, subscription string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.doc.Settings.Authorization == AuthorizeAny {
		return true
	}
	id := "/subscriptions/" + subscription
	for _, r := range w.doc.RoleAssignments {
		if strings.EqualFold(r.PrincipalID, principalID) && (within(r.Scope, id) || within(id, r.Scope)) {
			return true
		}
	}
	return false
}

// within says whether the ARM ID id lies in scope.
func within(id, scope string) bool {
	id, scope = fold(id), strings.TrimSuffix(fold(scope), "/")
	return id == scope || strings.HasPrefix(id, scope+"/")
}
