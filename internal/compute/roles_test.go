package compute

import (
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/emulator/world"
)

// TestRoleOnEachIdentity: Azure checks the caller's right on every identity that a PATCH names,
// including those that the group already has.
func TestRoleOnEachIdentity(t *testing.T) {
	for kind, group := range groupsUnderTest() {
		t.Run(kind, func(t *testing.T) {
			azure := newEmulated(t)
			azure.SetGroup(group, Identities{UserAssigned: ids("kubelet", "b")})
			azure.AddIdentities(ids("a")...)
			azure.edit(func(d *world.Document) {
				d.Settings.Authorization = world.AuthorizeRoles
				d.RoleAssignments = []world.RoleAssignment{
					{PrincipalID: clientGUID, Role: "Virtual Machine Contributor", Scope: "/subscriptions/" + subGUID},
					{PrincipalID: clientGUID, Role: "Managed Identity Operator", Scope: idPrefix + "a"},
					{PrincipalID: clientGUID, Role: "Managed Identity Operator", Scope: idPrefix + "b"},
				}
			})
			client := newClient(t, "https://arm.example", azure, nil)
			err := client.Patch(t.Context(), group, ids("a", "kubelet"), nil)
			if bad := BadIdentities(err); !IsForbidden(err) || !Definite(err) || len(bad) != 1 || !strings.EqualFold(bad[0], idPrefix+"kubelet") {
				t.Errorf("an identity that the caller may not assign and the group has: %v (%v)", err, bad)
			}
			wantIdentities(t, client, group, Identities{UserAssigned: ids("b", "kubelet")})
			if err := client.Patch(t.Context(), group, ids("a", "b"), nil); err != nil {
				t.Errorf("one that it may assign: %v", err)
			}
			wantIdentities(t, client, group, Identities{UserAssigned: ids("a", "b", "kubelet")})
		})
	}
}
