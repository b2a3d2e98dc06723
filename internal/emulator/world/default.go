// The default world.

package world

// The names in the default world. They are documented, so that examples can rely on them.
const (
	DefaultTenant        = "11111111-1111-4111-8111-111111111111"
	DefaultSubscription  = "22222222-2222-4222-8222-222222222222"
	DefaultResourceGroup = "demo"
	DefaultApplication   = "33333333-3333-4333-8333-333333333333"
)

// Default returns a small world: a VM (which loopback callers map to) with one user-assigned
// identity, a scale set with two instances and no identity, two more identities, and one service
// principal with the given secret.
func Default(secret string) Document {
	identity := func(name, number string) Identity {
		return Identity{
			ResourceID: "/subscriptions/" + DefaultSubscription + "/resourceGroups/" + DefaultResourceGroup +
				"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name,
			ClientID:    "44444444-4444-4444-8444-44444444000" + number,
			PrincipalID: "55555555-5555-4555-8555-55555555000" + number,
		}
	}
	identities := []Identity{identity("vm-identity", "0"), identity("demo-identity", "1"), identity("other-identity", "2")}
	settings := DefaultSettings()
	settings.IMDS.DefaultMachine = "vm-0"
	return Document{
		Location:      "westeurope",
		Tenants:       []Tenant{{ID: DefaultTenant, Domain: "emulated.onmicrosoft.com"}},
		Subscriptions: []Subscription{{ID: DefaultSubscription, Name: "emulated"}},
		Identities:    identities,
		Applications: []Application{{
			Name: "operator", ClientID: DefaultApplication,
			PrincipalID: "66666666-6666-4666-8666-666666666666", Secret: secret,
		}},
		VirtualMachines: []Machine{{
			ResourceGroup: DefaultResourceGroup, Name: "vm-0",
			Identities: []string{identities[0].ResourceID}, Addresses: []string{"10.0.0.4"},
		}},
		ScaleSets: []Machine{{
			ResourceGroup: DefaultResourceGroup, Name: "vmss-0",
			Instances: []Instance{
				{ID: "0", Name: "vmss-0000000", Addresses: []string{"10.0.0.5"}},
				{ID: "1", Name: "vmss-0000001", Addresses: []string{"10.0.0.6"}},
			},
		}},
		RoleAssignments: []RoleAssignment{{
			PrincipalID: "66666666-6666-4666-8666-666666666666", Scope: "/subscriptions/" + DefaultSubscription, Role: "Contributor",
		}},
		Settings: settings,
	}
}
