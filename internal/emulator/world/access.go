// Permissions on ARM.

package world

import "strings"

// actionsOf returns the relevant actions of a built-in role, or nil for an unknown role.
func actionsOf(role string) []string {
	const identity = "microsoft.managedidentity/userassignedidentities/"
	const groupRead = "microsoft.resources/subscriptions/resourcegroups/read"
	switch Fold(role) {
	case "owner", "contributor":
		return []string{"*"}
	case "reader":
		return []string{"*/read"}
	case "virtual machine contributor":
		return []string{"microsoft.compute/virtualmachines/*", "microsoft.compute/virtualmachinescalesets/*", groupRead}
	case "managed identity operator":
		return []string{identity + "read", identity + "*/read", identity + "assign/action", identity + "*/assign/action", groupRead}
	}
	return nil
}

// Allowed reports whether a principal may perform an action, such as
// Microsoft.Compute/virtualMachines/write, on the ARM resource ID scope.
func (w *World) Allowed(principalID, action, scope string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.doc.Settings.Authorization == AuthorizeAny {
		return true
	}
	for _, r := range w.doc.RoleAssignments {
		if !EqualFold(r.PrincipalID, principalID) || !within(scope, r.Scope) {
			continue
		}
		for _, actions := range [][]string{actionsOf(r.Role), r.Actions} {
			for _, pattern := range actions {
				if glob(Fold(pattern), Fold(action)) {
					return true
				}
			}
		}
	}
	return false
}

// Sees reports whether a principal may see a subscription, because it has any permission in it.
func (w *World) Sees(principalID, subscription string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.doc.Settings.Authorization == AuthorizeAny {
		return true
	}
	id := "/subscriptions/" + subscription
	for _, r := range w.doc.RoleAssignments {
		if EqualFold(r.PrincipalID, principalID) && (within(r.Scope, id) || within(id, r.Scope)) {
			return true
		}
	}
	return false
}

// within reports whether the ARM ID id is in scope.
func within(id, scope string) bool {
	id, scope = Fold(id), strings.TrimSuffix(Fold(scope), "/")
	return id == scope || strings.HasPrefix(id, scope+"/")
}
