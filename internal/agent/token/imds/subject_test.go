package imds

import (
	"net/http"
	"strings"
	"testing"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token/source/sourcetest"
	"github.com/podid-io/podid/internal/reason"
)

const (
	shopClient    = "11111111-2222-3333-4444-555555555555"
	victimClient  = "99999999-8888-7777-6666-555555555555"
	group         = "/subscriptions/00000000-0000-0000-0000-00000000000a/resourcegroups/g/providers/"
	shopResource  = group + "Microsoft.ManagedIdentity/userAssignedIdentities/shop"
	otherResource = group + "Microsoft.ManagedIdentity/userAssignedIdentities/victim"
	machine       = group + "Microsoft.Compute/virtualMachineScaleSets/nodes"
)

// inGroup returns the resource ID of an identity in a resource group of that name.
func inGroup(name string) string {
	return "/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/" + name + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/x"
}

// TestTokenOfAnotherIdentity checks that each reply of the metadata service is compared with the
// requested identity: by client ID and by resource ID, of the reply and of the token.
func TestTokenOfAnotherIdentity(t *testing.T) {
	type claims map[string]any
	both := v1.AzureIdentitySpec{ClientID: shopClient, ResourceID: shopResource}
	managed := v1.AzureIdentitySpec{ClientID: shopClient}
	noClient := v1.AzureIdentitySpec{ResourceID: shopResource}
	kubelet := func(clientID, resourceID string) bool {
		return clientID == victimClient || resourceID == strings.ToLower(otherResource)
	}
	for _, c := range []struct {
		name    string
		spec    v1.AzureIdentitySpec
		replied string // client_id beside the token
		claims  claims // nil: an opaque token
		cluster func(clientID, resourceID string) bool
		allow   bool
		reason  reason.Reason // of the 403; None if the token is issued
	}{
		{name: "matches", spec: both, replied: shopClient, claims: claims{"appid": shopClient, "xms_mirid": shopResource}},
		{
			name: "matches but for case and slash", replied: strings.ToUpper(shopClient), claims: claims{"azp": shopClient, "xms_mirid": strings.ToUpper(shopResource)},
			spec: v1.AzureIdentitySpec{ClientID: shopClient, ResourceID: strings.Replace(shopResource, "resourcegroups", "resourceGroups", 1) + "/"},
		},
		{name: "client ID of another, in the reply", spec: both, replied: victimClient, reason: reason.OtherIdentity},
		{name: "client ID of another, in the token", spec: both, claims: claims{"appid": victimClient}, reason: reason.OtherIdentity},
		{name: "client ID of another, version 2", spec: both, claims: claims{"azp": victimClient}, reason: reason.OtherIdentity},
		{name: "reply lies about the token", spec: both, replied: shopClient, claims: claims{"appid": victimClient}, reason: reason.OtherIdentity},
		{name: "resource ID of another", spec: both, replied: shopClient, claims: claims{"appid": shopClient, "xms_mirid": otherResource}, reason: reason.OtherIdentity},
		{name: "resource ID of another, alone", spec: noClient, claims: claims{"xms_mirid": otherResource}, reason: reason.OtherIdentity},
		{
			name: "Azure spells the group in the other case", spec: v1.AzureIdentitySpec{ResourceID: inGroup("\u00c9t\u00e9")},
			claims: claims{"xms_mirid": inGroup("\u00e9t\u00e9")},
		},
		{name: "a group that imitates another", spec: v1.AzureIdentitySpec{ResourceID: inGroup("bank")}, claims: claims{"xms_mirid": inGroup("ban\u212a")}, reason: reason.OtherIdentity},
		{name: "not equal by Unicode's rules", spec: noClient, claims: claims{"xms_mirid": strings.Replace(shopResource, "shop", "\u017fhop", 1)}, reason: reason.OtherIdentity},
		{name: "opaque token, client ID matches", spec: both, replied: shopClient},
		{name: "opaque token, nothing said", spec: both},
		{name: "no client ID in the spec", spec: noClient, replied: victimClient, claims: claims{"appid": victimClient, "xms_mirid": shopResource}},
		{name: "claims of odd types", spec: both, claims: claims{"oid": 5, "appid": []string{victimClient}, "xms_mirid": 7}, reason: reason.OtherIdentity},

		{name: "managed mode", spec: managed, replied: shopClient, claims: claims{"appid": shopClient, "xms_mirid": otherResource}},
		{name: "managed mode, opaque", spec: managed, replied: shopClient},
		{name: "managed mode, another", spec: managed, replied: victimClient, reason: reason.OtherIdentity},

		{name: "system-assigned", spec: managed, replied: shopClient, claims: claims{"appid": shopClient, "xms_mirid": machine}, reason: reason.ClusterToken},
		{name: "system-assigned, allowed", spec: managed, replied: shopClient, claims: claims{"appid": shopClient, "xms_mirid": machine}, allow: true},
		{name: "system-assigned of another client ID, allowed", spec: managed, replied: victimClient, claims: claims{"xms_mirid": machine}, allow: true, reason: reason.OtherIdentity},
		{name: "cluster's, by the spec", spec: v1.AzureIdentitySpec{ClientID: victimClient}, cluster: kubelet, reason: reason.ClusterToken},
		{name: "cluster's, by the token's client ID", spec: noClient, claims: claims{"appid": victimClient}, cluster: kubelet, reason: reason.ClusterToken},
		{name: "cluster's, by the reply", spec: noClient, replied: victimClient, cluster: kubelet, reason: reason.ClusterToken},
		{name: "cluster's, by the token's resource ID", spec: managed, claims: claims{"xms_mirid": otherResource}, cluster: kubelet, reason: reason.ClusterToken},
		{name: "cluster's, allowed", spec: v1.AzureIdentitySpec{ClientID: victimClient}, replied: victimClient, cluster: kubelet, allow: true},
		{name: "not the cluster's", spec: both, replied: shopClient, cluster: kubelet},
	} {
		t.Run(c.name, func(t *testing.T) {
			access := "opaque"
			if c.claims != nil {
				access = sourcetest.JWT(c.claims)
			}
			source, asked, m := newScript("200 " + sourcetest.Reply(access, c.replied))
			source.cfg.ClusterIdentity = func(clientID, resourceID string) bool { return c.cluster != nil && c.cluster(clientID, resourceID) }
			if c.allow {
				source.cfg.ClusterIdentity = nil
			}
			r := sourcetest.Request("a", "x")
			r.Identity.Spec = c.spec
			got, err := source.Token(t.Context(), r)
			if err == nil && got.OfCluster() != "" {
				got, err = nil, got.RefuseCluster(r.Identity)
			}
			if len(asked.seen) != 1 {
				t.Errorf("the service was asked %d times", len(asked.seen))
			}
			if c.reason == reason.None {
				if err != nil || got == nil {
					t.Errorf("got %v", err)
				}
				return
			}
			f := sourcetest.Failure(t, err)
			if f.Answer().Status != http.StatusForbidden || f.Reason != c.reason || f.Transient() || got != nil {
				t.Errorf("got %+v, want 403 %s", f, c.reason)
			}
			if text := f.Error(); strings.Contains(text, shopClient) || strings.Contains(text, victimClient) || strings.Contains(text, access) {
				t.Errorf("the error has a whole client ID or the token: %s", text)
			}
			if strings.Contains(f.Message, otherResource) || strings.Contains(f.Message, machine) {
				t.Errorf("the message names another's resource: %s", f.Message)
			}
			if c.reason == reason.OtherIdentity && m.Errors != 1 {
				t.Errorf("%d errors counted", m.Errors)
			}
		})
	}
}
