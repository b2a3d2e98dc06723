// One virtual machine.

package compute

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// getVM reads the identities of a virtual machine.
func (c *Client) getVM(ctx context.Context, group Group) (snapshot, error) {
	client, err := armcompute.NewVirtualMachinesClient(group.SubscriptionID, c.options.Credential, c.arm(group))
	if err != nil {
		return snapshot{}, err
	}
	answer, err := client.Get(ctx, group.ResourceGroup, group.Name, nil)
	if err != nil {
		return snapshot{}, err
	}
	have := identitiesOfVM(answer.Identity)
	if answer.Properties != nil {
		have.Updating = updating(answer.Properties.ProvisioningState)
	}
	return snapshot{Identities: have, etag: value(answer.Etag)}, nil
}

// patchVM writes only the identities of a virtual machine and returns those that it has after the
// update.
func (c *Client) patchVM(ctx context.Context, group Group, change change, etag string, sent *writeOutcome) (snapshot, error) {
	client, err := armcompute.NewVirtualMachinesClient(group.SubscriptionID, c.options.Credential, c.arm(group, outcomePolicy{sent}))
	if err != nil {
		return snapshot{}, err
	}
	body := armcompute.VirtualMachineUpdate{Identity: &armcompute.VirtualMachineIdentity{
		Type: new(change.kind), UserAssignedIdentities: change.body(),
	}}
	poller, err := client.BeginUpdate(ctx, group.ResourceGroup, group.Name, body,
		&armcompute.VirtualMachinesClientBeginUpdateOptions{IfMatch: optional(etag)})
	if err != nil {
		return snapshot{}, err
	}
	if !poller.Done() {
		if have, over := c.watch(ctx, group, change); over {
			return have, nil
		}
	}
	return finish(ctx, c, group, sent, poller, func(answer armcompute.VirtualMachinesClientUpdateResponse) (snapshot, bool) {
		return snapshot{identitiesOfVM(answer.Identity), value(answer.Etag)}, answer.Identity != nil || answer.Properties != nil
	})
}

// identitiesOfVM extracts the user-assigned identities and the type; nil means none.
func identitiesOfVM(identity *armcompute.VirtualMachineIdentity) Identities {
	if identity == nil {
		return Identities{}
	}
	return identitiesOf(identity.Type, identity.UserAssignedIdentities)
}
