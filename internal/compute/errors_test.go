// ARM's refusals as reported in public issues, with their IDs replaced.

package compute

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// refusalCase is one response of ARM to a PATCH that attaches a, b and ab, and its expected
// classification.
type refusalCase struct {
	name                           string
	status                         int
	body                           string
	bad                            []string
	notFound, forbidden, conflicts bool
	locked                         bool
	unsure                         bool // not Definite
	temporary                      bool // not IsRefused: the same request can succeed later, or the fault is podid's own
	says                           string
}

const (
	clientGUID = "01234567-89ab-cdef-0123-456789abcdef"
	subGUID    = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
)

func armBody(code, message string) string {
	return `{"error":{"code":"` + code + `","message":"` + message + `"}}`
}

func refusalCases() []refusalCase {
	linked := "The client '" + clientGUID + "' with object id '" + clientGUID + "' has permission to perform action 'Microsoft.Compute/virtualMachineScaleSets/write' on scope '/subscriptions/" + subGUID +
		"/resourceGroups/MC_x/providers/Microsoft.Compute/virtualMachineScaleSets/pool'; however, it does not have permission to perform action " +
		"'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on the linked scope(s) '"
	return []refusalCase{
		{
			name: "linked, two of three", status: 403, bad: ids("a", "b"), forbidden: true, says: "Managed Identity Operator",
			body: armBody("LinkedAuthorizationFailed", linked+strings.ToLower(idPrefix)+"a,"+strings.ToLower(idPrefix)+"b' or the linked scope(s) are invalid."),
		},
		{
			name: "linked, longest name", status: 403, bad: ids("ab"), forbidden: true, says: "Managed Identity Operator",
			body: armBody("LinkedAuthorizationFailed", linked+idPrefix+"ab' or the linked scope(s) are invalid."),
		},
		{
			name: "linked, other subscription", status: 403, bad: ids("a", "b", "ab"), forbidden: true, says: "check the subscription",
			body: armBody("LinkedAuthorizationFailed", "The client has permission to write, however the linked subscription '"+subGUID+"' was not found."),
		},
		{
			name: "no right on the machine", temporary: true, status: 403, forbidden: true, says: "Virtual Machine Contributor",
			body: armBody("AuthorizationFailed", "The client '"+clientGUID+"' does not have authorization to perform action 'Microsoft.Compute/virtualMachineScaleSets/write' over scope '/subscriptions/"+subGUID+"/resourceGroups/x'."),
		},
		{
			name: "identity gone", status: 400, bad: ids("b"), says: "check that the identity exists",
			body: armBody("FailedIdentityOperation", "Identity operation for resource '/subscriptions/s/x' failed with error 'Failed to perform resource identity operation. Status: 'BadRequest'. Response: '{\\\"error\\\":{\\\"code\\\":\\\"BadRequest\\\",\\\"message\\\":\\\"Resource '"+idPrefix+"b' was not found.\\\"}}'.'"),
		},
		{
			name: "identity gone, as 404", status: 404, bad: ids("b"), says: "check that the identity exists",
			body: armBody("ResourceNotFound", "The Resource '"+idPrefix+"b' was not found."),
		},
		{
			name: "malformed id", status: 400, bad: ids("b"), says: "resource ID is right",
			body: armBody("InvalidParameter", "ResourceIdentity identityId '"+idPrefix+"b' is not valid."),
		},
		{
			name: "in the details", status: 400, bad: ids("a"),
			body: `{"error":{"code":"BadRequest","message":"See details.","details":[{"code":"x","message":"no","target":"` + idPrefix + `a"}]}}`,
		},
		{
			name: "deleted while assigned", status: 400, bad: ids("foreign"),
			body: armBody("FailedIdentityOperation", "Resource '"+idPrefix+"foreign' was not found."),
		},
		{
			name: "scale set gone", temporary: true, status: 404, notFound: true,
			body: armBody("ResourceNotFound", "The Resource 'Microsoft.Compute/virtualMachineScaleSets/set' under resource group 'rg' was not found."),
		},
		{name: "resource group gone", temporary: true, status: 404, notFound: true, body: armBody("ResourceGroupNotFound", "Resource group 'rg' could not be found.")},
		{
			name: "locked", temporary: true, locked: true, status: 409, conflicts: true, says: "remove it from the machine",
			body: armBody("ScopeLocked", "The scope '/subscriptions/"+subGUID+"/resourceGroups/x' cannot perform write operation because following scope(s) are locked: '/subscriptions/"+subGUID+"/resourceGroups/x'. Please remove the lock and try again."),
		},
		{name: "busy", temporary: true, status: 409, conflicts: true, body: armBody("AnotherOperationInProgress", "Another operation on this or dependent resource is in progress.")},
		{
			name: "busy, in the details", temporary: true, status: 400, conflicts: true,
			body: `{"error":{"code":"BadRequest","message":"See details.","details":[{"code":"AnotherOperationInProgress","message":"about ` + idPrefix + `a"}]}}`,
		},
		{name: "conflict names ids", temporary: true, status: 409, conflicts: true, body: armBody("Conflict", "Busy with "+idPrefix+"a.")},
		{name: "policy names ids", temporary: true, status: 403, forbidden: true, body: armBody("RequestDisallowedByPolicy", "Not "+idPrefix+"a.")},
		{name: "no token", temporary: true, status: 401, body: armBody("ExpiredAuthenticationToken", "expired"), says: "aadClientSecret"},
		{name: "not json", temporary: true, unsure: true, status: 400, body: "<html><code>InvalidParameter</code>" + idPrefix + "a</html>", says: notAzures},
		{name: "empty", temporary: true, unsure: true, status: 400, body: "", says: notAzures},
		{name: "blocked", temporary: true, unsure: true, status: 403, body: "<html>no</html>", says: "HTTP 403, and " + notAzures},
		{name: "somebody's JSON", temporary: true, unsure: true, status: 403, body: `{"error":{"code":403,"message":"` + idPrefix + `a"}}`, says: notAzures},
		{name: "a portal", temporary: true, unsure: true, status: 404, body: "<html>not found</html>", says: notAzures},
		{name: "proxy login", temporary: true, unsure: true, status: 407, says: "HTTPS_PROXY"},
		{name: "gateway", temporary: true, unsure: true, status: 502, body: "<html>", says: notAzures},
	}
}

const notAzures = "the answer is not Azure's (a proxy?)"

func TestRefusals(t *testing.T) {
	for _, tt := range refusalCases() {
		t.Run(tt.name, func(t *testing.T) {
			story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
				arm.fail(answer{method: http.MethodPatch, status: tt.status, body: tt.body, times: maxRetries + 1})
				err := client.Patch(t.Context(), group, ids("a", "b", "ab"), nil)
				if err == nil {
					t.Fatal("no error")
				}
				if diff := cmp.Diff(tt.bad, BadIdentities(err)); diff != "" {
					t.Errorf("bad identities (-want +have):\n%s", diff)
				}
				if IsNotFound(err) != tt.notFound || IsForbidden(err) != tt.forbidden || IsConflict(err) != tt.conflicts {
					t.Errorf("notFound %v, forbidden %v, conflict %v: %v", IsNotFound(err), IsForbidden(err), IsConflict(err), err)
				}
				if IsRefused(err) == tt.temporary {
					t.Errorf("IsRefused = %v: %v", IsRefused(err), err)
				}
				if unsure := tt.unsure || tt.conflicts && !tt.locked; Definite(err) == unsure || IsLocked(err) != tt.locked {
					t.Errorf("Definite = %v, IsLocked = %v: %v", Definite(err), IsLocked(err), err)
				}
				text := err.Error()
				if !strings.Contains(text, tt.says) || !strings.HasPrefix(text, "patch identities of vmss/rg/set: ") {
					t.Errorf("%q does not say %q", text, tt.says)
				}
				if strings.Contains(text, clientGUID) || strings.ContainsAny(text, "\n\r") || len(text) > 1500 {
					t.Errorf("not fit for a log: %q", text)
				}
			})
		})
	}
}

// TestRemedies: the complete texts for operators.
func TestRemedies(t *testing.T) {
	const gone = "/subscriptions/" + subGUID + "/resourceGroups/Ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
	client := "The client '" + subGUID + "' with object id '" + clientGUID + "' "
	linked := client + "has permission to perform action 'Microsoft.Compute/virtualMachineScaleSets/write' on scope 'x'; however, it does not have permission " +
		"to perform action 'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on the linked scope(s) '"
	const orInvalid = "' or the linked scope(s) are invalid."
	for _, tt := range []struct{ name, code, message, runsAs, want string }{
		{
			"linked", "LinkedAuthorizationFailed", linked + gone + "a" + orInvalid, "",
			"check that the identity exists, and grant the right to assign it: az role assignment create --role \"Managed Identity Operator\" " +
				"--assignee <principal 01234567…> --scope \"" + gone + "a\"",
		},
		{
			"linked, three", "LinkedAuthorizationFailed", linked + gone + "a," + gone + "b," + gone + "ab" + orInvalid, "",
			"check that the identity exists, and grant the right to assign it: az role assignment create --role \"Managed Identity Operator\" " +
				"--assignee <principal 01234567…> --scope \"" + gone + "a\", and the same for 2 more",
		},
		{
			"linked, no principal named", "LinkedAuthorizationFailed", "No permission on the linked scope(s) '" + gone + "a'.", clientGUID,
			"check that the identity exists, and grant the right to assign it: az role assignment create --role \"Managed Identity Operator\" " +
				"--assignee <client 01234567…> --scope \"" + gone + "a\"",
		},
		{
			"linked, nobody known", "LinkedAuthorizationFailed", "No permission on the linked scope(s) '" + gone + "a'.", "",
			"check that the identity exists, and grant the right to assign it: az role assignment create --role \"Managed Identity Operator\" " +
				"--assignee <the identity that podid runs as> --scope \"" + gone + "a\"",
		},
		{
			"linked, hostile", "LinkedAuthorizationFailed", linked + strings.Replace(gone, "Ids", "$(reboot)", 1) + "a" + orInvalid, "",
			"check that the identity exists, and grant the right to assign it: az role assignment create --role \"Managed Identity Operator\" " +
				"--assignee <principal 01234567…> --scope <resource ID>",
		},
		{
			"the group", "AuthorizationFailed", client + "does not have authorization to perform action 'Microsoft.Compute/virtualMachineScaleSets/write' over scope " +
				"'/subscriptions/x' or the scope is invalid. If access was recently granted, please refresh your credentials.", "",
			"grant the right to read and write the machines of the resource group: az role assignment create --role \"Virtual Machine Contributor\" " +
				"--assignee <principal 01234567…> --scope \"/subscriptions/" + subGUID + "/resourceGroups/rg\"",
		},
		{
			"not there", "FailedIdentityOperation", "Resource '" + gone + "b' was not found.", "",
			"check that the identity exists and that its resource ID is right: az identity show --ids \"" + gone + "b\"",
		},
		{
			"malformed", "LinkedInvalidPropertyId", "Property id '" + gone + "b' at path 'identity.userAssignedIdentities' is invalid.", "",
			"check that the resource ID is right (spec.resourceID of the AzureIdentity), expected: /subscriptions/S/resourceGroups/G/" +
				"providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME",
		},
		{
			"subscription", "SubscriptionNotFound", "The subscription '" + subGUID + "' could not be found.", "",
			"the machine is there: check the subscription and the resource group in the identity's resource ID (spec.resourceID of the AzureIdentity)",
		},
		{"nothing to do", "Conflict", "Try later.", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &refusal{act: "patch identities of", group: groupsUnderTest()["vmss"], status: 403, runsAs: tt.runsAs}
			r.read([]byte(armBody(tt.code, tt.message)))
			r.identities = r.named(ids("a", "b", "ab"))
			if diff := cmp.Diff(tt.want, r.remedy()); diff != "" {
				t.Errorf("(-want +have):\n%s", diff)
			}
			if text := r.Error(); strings.Contains(text, clientGUID) || !strings.Contains(text, tt.want) {
				t.Errorf("%q", text)
			}
		})
	}
}

// TestWhereabouts: the node group is looked up in the wrong place. The name that an operator has to
// look for is not shortened.
func TestWhereabouts(t *testing.T) {
	for _, tt := range []struct{ code, message, says string }{
		{"SubscriptionNotFound", "The subscription '" + subGUID + "' could not be found.", "check the subscription in the node's spec.providerID"},
		{"ResourceGroupNotFound", "Resource group 'rg' in subscription ID: " + subGUID + " could not be found by the client '" + clientGUID + "'.", "check the resource group in the node's spec.providerID"},
	} {
		arm, group := newARM(t), groupsUnderTest()["vm"]
		arm.fail(answer{method: http.MethodGet, status: http.StatusNotFound, body: armBody(tt.code, tt.message)})
		_, err := arm.client("https://arm.example", arm, nil).Get(t.Context(), group)
		for _, text := range []string{errorText(err), AboutGroup(err)} {
			if !strings.Contains(text, tt.says) || !strings.Contains(text, subGUID) || strings.Contains(text, clientGUID) || !IsNotFound(err) {
				t.Errorf("%q does not say %q", text, tt.says)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header map[string]string
		want   time.Duration
	}{
		{"seconds", map[string]string{"Retry-After": "17"}, 17 * time.Second},
		{"absurd", map[string]string{"Retry-After": "2000000000"}, time.Hour},
		{"milliseconds first", map[string]string{"Retry-After": "17", "Retry-After-Ms": "1500"}, 1500 * time.Millisecond},
		{"none", nil, defaultRetryAfter},
		{"nonsense", map[string]string{"Retry-After": "soon"}, defaultRetryAfter},
		{"negative", map[string]string{"Retry-After": "-5"}, defaultRetryAfter},
		{"date", map[string]string{"Retry-After": "Sat, 01 Jan 2000 00:01:00 GMT"}, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // begins at midnight UTC, 2000-01-01
				arm, group := newARM(t), groupsUnderTest()["vm"]
				arm.fail(answer{method: http.MethodGet, status: http.StatusTooManyRequests, header: tt.header})
				_, err := arm.client("https://arm.example", arm, nil).Get(t.Context(), group)
				if wait, ok := RetryAfter(err); !ok || wait != tt.want {
					t.Errorf("RetryAfter(%v) = %v, %v, want %v", err, wait, ok, tt.want)
				}
				if len(arm.seen("")) != 1 {
					t.Errorf("%d requests, want no retry in here", len(arm.seen("")))
				}
			})
		})
	}
}

func TestKindsOfOthers(t *testing.T) {
	for _, err := range []error{nil, errors.New("x"), context.Canceled} {
		if _, throttled := RetryAfter(err); throttled || IsNotFound(err) || IsForbidden(err) || IsConflict(err) || IsRefused(err) || BadIdentities(err) != nil {
			t.Errorf("%v has a kind", err)
		}
	}
}

// deadNetwork is a transport whose requests all fail.
type deadNetwork struct{ tries int }

func (d *deadNetwork) Do(*http.Request) (*http.Response, error) {
	d.tries++
	return nil, &url.Error{Op: "Get", URL: "https://arm.example/", Err: &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}}
}

func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, start := &deadNetwork{}, time.Now()
		_, err := newARM(t).client("https://arm.example", network, nil).Get(t.Context(), groupsUnderTest()["vm"])
		if text := errorText(err); !strings.Contains(text, "cannot reach Azure") || !strings.Contains(text, "connection refused") {
			t.Error(text)
		}
		if network.tries != maxRetries+1 || time.Since(start) > 10*time.Second {
			t.Errorf("%d tries in %v, want %d within 10s", network.tries, time.Since(start), maxRetries+1)
		}
	})
}

// FuzzErrorBody: no response causes a panic, or blames an identity without a name.
func FuzzErrorBody(f *testing.F) {
	for _, tt := range refusalCases() {
		f.Add(tt.status, tt.body)
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		r := &refusal{act: "patch identities of", status: status}
		r.read([]byte(body))
		r.identities = r.named(ids("a", "b"))
		if len(r.identities) > 2+mostNamed || len(r.Error()) > 2000 {
			t.Errorf("%d bad, %q", len(r.identities), r.Error())
		}
	})
}
