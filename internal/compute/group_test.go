package compute

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseProviderID(t *testing.T) {
	const machines = "/providers/Microsoft.Compute/virtualMachines/"
	vm := Group{Kind: VM, SubscriptionID: "sub", ResourceGroup: "mc_rg", Name: "node-0"}
	vmss := Group{Kind: VMSS, SubscriptionID: "sub", ResourceGroup: "mc_rg", Name: "pool"}
	for _, tt := range []struct {
		name, id string
		want     Group
		wantErr  string // empty: none
	}{
		{name: "vm", id: "azure:///subscriptions/sub/resourceGroups/mc_rg" + machines + "node-0", want: vm},
		{name: "vmss", id: "azure:///subscriptions/sub/resourceGroups/mc_rg/providers/Microsoft.Compute/virtualMachineScaleSets/pool/virtualMachines/12", want: vmss},
		{name: "any case", id: "AZURE:///SUBSCRIPTIONS/Sub/resourcegroups/MC_rg/Providers/microsoft.compute/VirtualMachineScaleSets/Pool/VIRTUALMACHINES/0", want: vmss},
		{name: "flexible", id: "azure:///subscriptions/sub/resourceGroups/mc_rg" + machines + "NODE-0", want: vm},
		{name: "none", id: "", wantErr: "has no provider ID"},
		{name: "kind", id: "kind://podman/kind/kind-control-plane", wantErr: "not Azure's"},
		{name: "aws", id: "aws:///eu-west-1a/i-0123456789", wantErr: "not Azure's"},
		{name: "no scheme", id: "/subscriptions/sub/resourceGroups/mc_rg" + machines + "node-0", wantErr: "not Azure's"},
		{name: "scale set only", id: "azure:///subscriptions/sub/resourceGroups/mc_rg/providers/Microsoft.Compute/virtualMachineScaleSets/pool", wantErr: "names neither"},
		{name: "no number", id: "azure:///subscriptions/sub/resourceGroups/mc_rg/providers/Microsoft.Compute/virtualMachineScaleSets/pool/virtualMachines/x", wantErr: "names neither"},
		{name: "other provider", id: "azure:///subscriptions/sub/resourceGroups/mc_rg/providers/Microsoft.Network/virtualMachines/x", wantErr: "names neither"},
		{name: "empty name", id: "azure:///subscriptions/sub/resourceGroups/mc_rg" + machines, wantErr: "names neither"},
		{name: "dots", id: "azure:///subscriptions/../resourceGroups/mc_rg" + machines + "x", wantErr: "names neither"},
		{name: "query", id: "azure:///subscriptions/sub/resourceGroups/mc_rg" + machines + "x?a=b", wantErr: "names neither"},
		{name: "host", id: "azure://evil/subscriptions/sub/resourceGroups/mc_rg" + machines + "x", wantErr: "names neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have, err := ParseProviderID(tt.id)
			if diff := cmp.Diff(tt.want, have); diff != "" {
				t.Errorf("(-want +have):\n%s", diff)
			}
			if message := errorText(err); tt.wantErr == "" && err != nil || !strings.Contains(message, tt.wantErr) {
				t.Errorf("error %q, want it to say %q", message, tt.wantErr)
			}
		})
	}
}

func TestGroupText(t *testing.T) {
	g := Group{Kind: VMSS, SubscriptionID: "s", ResourceGroup: "rg", Name: "pool"}
	if have, want := g.String(), "vmss/rg/pool"; have != want {
		t.Errorf("String = %q, want %q", have, want)
	}
	if have, want := g.ResourceID(), "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/virtualMachineScaleSets/pool"; have != want {
		t.Errorf("ResourceID = %q, want %q", have, want)
	}
}

// FuzzParseProviderID: accepted IDs are canonical, and their resource ID parses to the same group.
func FuzzParseProviderID(f *testing.F) {
	f.Add("azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/n")
	f.Add("azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/n/virtualMachines/3")
	f.Add("kind://a/b/c")
	f.Fuzz(func(t *testing.T, id string) {
		group, err := ParseProviderID(id)
		if err != nil {
			return
		}
		again := "azure://" + group.ResourceID()
		if group.Kind == VMSS {
			again += "/virtualMachines/0"
		}
		if same, err := ParseProviderID(again); err != nil || same != group {
			t.Errorf("%q gives %+v, whose ID gives %+v (%v)", id, group, same, err)
		}
		if strings.ContainsAny(group.String()[len(group.Kind)+1:], "?#%\\ ") {
			t.Errorf("%q gives %q", id, group)
		}
	})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
