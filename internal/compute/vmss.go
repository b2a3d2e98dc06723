// One uniform scale set: its identities are those of all its instances.

package compute

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// getVMSS reads the identities of a scale set.
func (c *Client) getVMSS(ctx context.Context, group Group) (snapshot, error) {
	client, err := armcompute.NewVirtualMachineScaleSetsClient(group.SubscriptionID, c.options.Credential, c.arm(group))
	if err != nil {
		return snapshot{}, err
	}
	answer, err := client.Get(ctx, group.ResourceGroup, group.Name, nil)
	if err != nil {
		return snapshot{}, err
	}
	have := identitiesOfVMSS(answer.Identity)
	if answer.Properties != nil {
		have.Updating = updating(answer.Properties.ProvisioningState)
	}
	return snapshot{Identities: have, etag: value(answer.Etag)}, nil
}

// patchVMSS writes only the identities of a scale set and returns those that it has after the
// update.
func (c *Client) patchVMSS(ctx context.Context, group Group, change change, etag string, sent *writeOutcome) (snapshot, error) {
	client, err := armcompute.NewVirtualMachineScaleSetsClient(group.SubscriptionID, c.options.Credential, c.arm(group, outcomePolicy{sent}))
	if err != nil {
		return snapshot{}, err
	}
	body := armcompute.VirtualMachineScaleSetUpdate{Identity: &armcompute.VirtualMachineScaleSetIdentity{
		Type: new(change.kind), UserAssignedIdentities: change.body(),
	}}
	poller, err := client.BeginUpdate(ctx, group.ResourceGroup, group.Name, body,
		&armcompute.VirtualMachineScaleSetsClientBeginUpdateOptions{IfMatch: optional(etag)})
	if err != nil {
		return snapshot{}, err
	}
	return finish(ctx, c, group, sent, poller, func(answer armcompute.VirtualMachineScaleSetsClientUpdateResponse) (snapshot, bool) {
		return snapshot{identitiesOfVMSS(answer.Identity), value(answer.Etag)}, answer.Identity != nil || answer.Properties != nil
	})
}

// identitiesOfVMSS extracts the user-assigned identities and the type; nil means none.
func identitiesOfVMSS(identity *armcompute.VirtualMachineScaleSetIdentity) Identities {
	if identity == nil {
		return Identities{}
	}
	return identitiesOf(identity.Type, identity.UserAssignedIdentities)
}
