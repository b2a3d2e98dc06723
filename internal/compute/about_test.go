package compute

import (
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestAbout(t *testing.T) {
	group := Group{Kind: VMSS, SubscriptionID: subGUID, ResourceGroup: "rg", Name: "pool"}
	const lacks = "The client '" + clientGUID + "' with object id '" + clientGUID + "' has permission to perform action " +
		"'Microsoft.Compute/virtualMachineScaleSets/write'; however, it does not have permission to perform action " +
		"'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on the linked scope(s) '"
	const exists = `check that the identity exists and that its resource ID is right: az identity show --ids "` + idPrefix + `a"`
	const grant = `check that the identity exists, and grant the right to assign it: az role assignment create ` +
		`--role "Managed Identity Operator" --assignee <principal 01234567…> --scope "` + idPrefix + `a"`
	for _, c := range []struct {
		name          string
		status        int
		code, message string
		want          string // of a
	}{
		{
			"alone", http.StatusBadRequest, "FailedIdentityOperation",
			"Resource '" + idPrefix + "a' was not found. Tracking ID: 0f0f0f0f-1111-2222-3333-444444444444.",
			"FailedIdentityOperation: " + exists + "; Azure says: Resource '" + idPrefix + "a' was not found",
		},
		{
			"with another's", http.StatusBadRequest, "FailedIdentityOperation",
			"Resources '" + idPrefix + "a', '" + idPrefix + "b' were not found.", "FailedIdentityOperation: " + exists,
		},
		{
			"with a longer one", http.StatusBadRequest, "FailedIdentityOperation",
			"Resources '" + idPrefix + "ab', '" + idPrefix + "a' were not found.", "FailedIdentityOperation: " + exists,
		},
		{
			"no right", http.StatusForbidden, "LinkedAuthorizationFailed", lacks + idPrefix + "b," + idPrefix + "a'.",
			"LinkedAuthorizationFailed: " + grant,
		},
		{
			"no right, alone", http.StatusForbidden, "LinkedAuthorizationFailed", lacks + idPrefix + "a'.",
			"LinkedAuthorizationFailed: " + grant + "; Azure says: " + strings.ReplaceAll(lacks, clientGUID, "01234567…") + idPrefix + "a'.",
		},
		{
			"found by halving", http.StatusBadRequest, "BadRequest", "One of them (correlation id 'abcdef0123') is bad, 2026-01-02T03:04:05.6789Z",
			"BadRequest: " + exists + "; Azure says: One of them is bad",
		},
		{"another code", http.StatusBadRequest, "QuotaExceeded", "Too many, see 01234567-1111-2222-3333-444444444444.", "QuotaExceeded: Too many, see …."},
		{"no code", http.StatusConflict, "", "Too many.", "Too many."},
		{"nothing", http.StatusConflict, "", "", "HTTP 409 without a reason"},
		{
			"not Azure's", http.StatusForbidden, "", "Blocked.", "HTTP 403, and the answer is not Azure's (a proxy?): " +
				"check the proxy (HTTPS_PROXY, NO_PROXY), the firewall and the endpoints of the cloud",
		},
		{"subscription", http.StatusBadRequest, "Disabled", "Subscription with id '" + subGUID + "' is off.", "Disabled: Subscription with id '" + subGUID + "' is off."},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused := refusedWrite(group, c.status, c.code, c.message, ids("a", "b", "ab"))
			want := "Azure refuses identity Ids/a on vmss/rg/pool: " + c.want
			if got := About(refused, idPrefix+"a"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	if got := About(errors.New("away"), "x"); !strings.Contains(got, "identity x: away") {
		t.Errorf("of another error: %s", got)
	}
}

// TestAboutSteady: differences between responses do not change the text.
func TestAboutSteady(t *testing.T) {
	for _, c := range []struct{ name, one, other string }{
		{"tracking id", "No. Tracking ID: '11111111-aaaa-2222-bbbb-333333333333'", "No. Tracking ID: '44444444-aaaa-2222-bbbb-333333333333'"},
		{"short one", "No (request id: 8f00ba12)", "No (request id: 12345678)"},
		{"activity", "No. ActivityId: 8f00ba12-0000", "No. ActivityId: 12345678-0001"},
		{"entra", "No. Trace ID: 8f00ba12-1 Correlation ID: 12345678-2 Timestamp: 2026-01-02 03:04:05Z", "No. Trace ID: 9f00ba12-1 Correlation ID: 02345678-2 Timestamp: 2026-02-02 03:04:06Z"},
		{"operation", "Operation Id '12345678-1234' failed", "Operation Id '22345678-1234' failed"},
		{"bare", "See 11111111-aaaa-2222-bbbb-333333333333.", "See 21111111-aaaa-2222-bbbb-333333333333."},
		{"time", "At 2026-01-02T03:04:05.123Z it said no", "At 2026-01-03T13:04:05.1Z it said no"},
	} {
		t.Run(c.name, func(t *testing.T) {
			of := func(message string) (identity, group string) {
				refused := refusedWrite(Group{Kind: VM}, http.StatusBadRequest, "BadRequest", message, nil)
				return About(refused, "x"), AboutGroup(refused)
			}
			oneIdentity, oneGroup := of(c.one)
			otherIdentity, otherGroup := of(c.other)
			if oneIdentity != otherIdentity || oneGroup != otherGroup {
				t.Errorf("got %q, %q and %q, %q", oneIdentity, oneGroup, otherIdentity, otherGroup)
			}
		})
	}
}

func TestAboutGroup(t *testing.T) {
	group := Group{Kind: VM, SubscriptionID: subGUID, ResourceGroup: "rg", Name: "vm"}
	for _, c := range []struct{ name, code, message, want string }{
		{
			"no right", "AuthorizationFailed", "The client '" + clientGUID + "' does not have authorization over scope '" + group.ResourceID() + "'.",
			"patch identities of vm/rg/vm: AuthorizationFailed: " +
				`grant the right to read and write the machines of the resource group: az role assignment create --role "Virtual Machine Contributor" ` +
				`--assignee <client 01234567…> --scope "/subscriptions/` + subGUID + `/resourceGroups/rg"` +
				"; Azure says: The client '01234567…' does not have authorization over scope '" + group.ResourceID() + "'.",
		},
		{"names somebody's", "AuthorizationFailedForSome", "No right on '" + idPrefix + "a'.", "patch identities of vm/rg/vm: AuthorizationFailedForSome"},
		{"policy", "RequestDisallowedByPolicy", "Policy '/providers/x/policies/y' says no.", "patch identities of vm/rg/vm: RequestDisallowedByPolicy: Policy '/providers/x/policies/y' says no."},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := AboutGroup(refusedWrite(group, http.StatusForbidden, c.code, c.message, nil)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestRemoval(t *testing.T) {
	vmss, vm := Group{Kind: VMSS, ResourceGroup: "rg", Name: "pool"}, Group{Kind: VM, ResourceGroup: "rg", Name: "vm"}
	if got := Removal(vmss, ids("b", "a")); got != `az vmss identity remove --resource-group rg --name pool --identities "`+idPrefix+`a" "`+idPrefix+`b"` {
		t.Error(got)
	}
	if got := Removal(vm, []string{"$(x)"}); got != `az vm identity remove --resource-group rg --name vm --identities <resource ID>` {
		t.Error(got)
	}
}
