// Helpers for several tests of this package.

package compute

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const idPrefix = "/subscriptions/" + subGUID + "/resourceGroups/Ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"

// NewClientAndARM returns a client and the small ARM behind it, for the conformance test.
func NewClientAndARM(t *testing.T) (*Client, *armServer) {
	arm := newARM(t)
	return arm.client("https://arm.example", arm, nil), arm
}

// NewClientAndEmulator returns a client and the emulated Azure behind it, for the conformance test.
func NewClientAndEmulator(t *testing.T) (*Client, *emulated) {
	azure := newEmulated(t)
	return newClient(t, "https://arm.example", azure, nil), azure
}

func groupsUnderTest() map[string]Group {
	return map[string]Group{
		"vm":   {Kind: VM, SubscriptionID: subGUID, ResourceGroup: "rg", Name: "one"},
		"vmss": {Kind: VMSS, SubscriptionID: subGUID, ResourceGroup: "rg", Name: "set"},
	}
}

func ids(names ...string) []string {
	var all []string
	for _, name := range names {
		all = append(all, idPrefix+name)
	}
	return all
}

func wantIdentities(t *testing.T, client *Client, group Group, want Identities) {
	t.Helper()
	have, err := client.Get(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	anyCase := cmp.Transformer("lower", strings.ToLower)
	if diff := cmp.Diff(want, have, anyCase, cmpopts.IgnoreFields(Identities{}, "ClientIDs", "PrincipalIDs")); diff != "" {
		t.Errorf("identities (-want +have):\n%s", diff)
	}
}

func mustPatch(t *testing.T, client *Client, group Group, attach, detach []string) {
	t.Helper()
	if err := client.Patch(t.Context(), group, attach, detach); err != nil {
		t.Fatal(err)
	}
}

// refusedWrite returns the error of a PATCH that ARM refuses.
func refusedWrite(group Group, status int, code, message string, requested []string) error {
	w := httptest.NewRecorder()
	refuseARM(w, status, code, message)
	return PatchError(group, requested, &azcore.ResponseError{StatusCode: status, ErrorCode: code, RawResponse: w.Result()})
}

// TestTLS runs one request over a TLS connection.
func TestTLS(t *testing.T) {
	for kind, group := range groupsUnderTest() {
		t.Run(kind, func(t *testing.T) {
			arm := newARM(t)
			server := httptest.NewTLSServer(arm)
			defer server.Close()
			client := arm.client(server.URL, server.Client(), nil)
			arm.SetGroup(group, Identities{})
			arm.AddIdentities(ids("a")...)
			arm.SetDuration(time.Millisecond)
			mustPatch(t, client, group, ids("a"), nil)
			wantIdentities(t, client, group, Identities{UserAssigned: ids("a")})
		})
	}
}
