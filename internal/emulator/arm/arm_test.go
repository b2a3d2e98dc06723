package arm_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/emulator/arm"
	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/world"
)

var keys = sync.OnceValues(entra.GenerateKeys)

const (
	base    = "https://arm.example"
	sub     = "/subscriptions/" + world.DefaultSubscription
	compute = sub + "/resourceGroups/demo/providers/Microsoft.Compute"
	vmss    = compute + "/virtualMachineScaleSets/vmss-0"
	vm      = compute + "/virtualMachines/vm-0"
	ids     = sub + "/resourceGroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
	version = "?api-version=2024-07-01"
)

// cloud is an ARM without a network, on a clock that only the test advances.
type cloud struct {
	t       testing.TB
	now     time.Time
	world   *world.World
	tokens  *entra.Tokens
	handler http.Handler
	token   string
}

func newCloud(t testing.TB, change func(*world.Document)) *cloud {
	t.Helper()
	c := &cloud{t: t, now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	doc := world.Default("s3cret")
	if change != nil {
		change(&doc)
	}
	signing, err := keys()
	if err != nil {
		t.Fatal(err)
	}
	if c.world, err = world.New(doc, func() time.Time { return c.now }); err != nil {
		t.Fatal(err)
	}
	c.tokens = entra.NewTokens(signing, c.world, "https://login.example")
	c.handler = arm.NewHandler(c.world, c.tokens, arm.Endpoints{ARM: base, Entra: "https://login.example"}, slog.New(slog.DiscardHandler))
	c.token = c.mint("66666666-6666-4666-8666-666666666666", "https://management.azure.com/", time.Hour)
	return c
}

func (c *cloud) mint(principal, audience string, life time.Duration) string {
	c.t.Helper()
	token, err := c.tokens.Mint(entra.Subject{
		TenantID: world.DefaultTenant, ClientID: world.DefaultApplication, PrincipalID: principal,
	}, audience, life)
	if err != nil {
		c.t.Fatal(err)
	}
	return token.Text
}

// answer is a response.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

func (a answer) code() string {
	e, _ := a.body["error"].(map[string]any)
	code, _ := e["code"].(string)
	return code
}

func (a answer) message() string {
	e, _ := a.body["error"].(map[string]any)
	message, _ := e["message"].(string)
	return message
}

func (c *cloud) do(method, target, body string, header ...string) answer {
	c.t.Helper()
	r := httptest.NewRequestWithContext(c.t.Context(), method, target, strings.NewReader(body))
	r.Host = "arm.example"
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, r)
	a := answer{status: w.Code, header: w.Header()}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &a.body); err != nil {
			var list []any
			if json.Unmarshal(w.Body.Bytes(), &list) != nil {
				c.t.Fatalf("%s %s: %q: %v", method, target, w.Body, err)
			}
		}
	}
	return a
}

func identities(pairs ...string) string {
	var entries []string
	for i := 0; i < len(pairs); i += 2 {
		entries = append(entries, `"`+pairs[i]+`":`+pairs[i+1])
	}
	return `{"identity":{"type":"UserAssigned","userAssignedIdentities":{` + strings.Join(entries, ",") + `}}}`
}

func TestRefusals(t *testing.T) {
	demo := identities(ids+"demo-identity", "{}")
	tests := []struct {
		name, method, target, body string
		status                     int
		code, message              string
	}{
		{"no api-version", "GET", vm, "", 400, "MissingApiVersionParameter", ""},
		{"odd api-version", "GET", vm + "?api-version=latest", "", 400, "InvalidApiVersionParameter", ""},
		{"unknown path", "GET", "/providers" + version, "", 404, "InvalidResourceType", ""},
		{"unknown method", "DELETE", vm + version, "", 405, "HttpMethodNotSupported", ""},
		{"unknown subscription", "GET", "/subscriptions/x/resourceGroups" + version, "", 404, "SubscriptionNotFound", ""},
		{"unknown group", "GET", sub + "/resourceGroups/x" + version, "", 404, "ResourceGroupNotFound", ""},
		{"VM of an unknown group", "GET", sub + "/resourceGroups/x/providers/Microsoft.Compute/virtualMachines/vm-0" + version, "", 404, "ResourceGroupNotFound", ""},
		{"unknown VM", "GET", compute + "/virtualMachines/x" + version, "", 404, "ResourceNotFound", "'Microsoft.Compute/virtualMachines/x' under resource group 'demo'"},
		{"unknown scale set", "PATCH", compute + "/virtualMachineScaleSets/x" + version, demo, 404, "ResourceNotFound", ""},
		{"unknown identity resource", "GET", ids + "x" + version, "", 404, "ResourceNotFound", ""},
		{"unknown instance", "GET", vmss + "/virtualMachines/9" + version, "", 404, "ResourceNotFound", ""},
		{"unknown operation", "GET", sub + "/providers/Microsoft.Compute/locations/westeurope/operations/x" + version, "", 404, "NotFound", ""},
		{"no JSON", "PATCH", vm + version, "{", 400, "InvalidRequestContent", ""},
		{"no type", "PATCH", vm + version, `{"identity":{}}`, 400, "InvalidRequestContent", "Required property 'type' not found in JSON"},
		{"odd type", "PATCH", vm + version, `{"identity":{"type":"Mine"}}`, 400, "InvalidRequestContent", "Mine"},
		{"no ID", "PATCH", vm + version, identities("demo", "{}"), 400, "LinkedInvalidPropertyId", "'demo'"},
		{"identity that is not there", "PATCH", vmss + version, identities(ids+"gone", "{}"), 400, "FailedIdentityOperation", "Resource '" + ids + "gone' was not found."},
		{"identity of an unknown subscription", "PATCH", vmss + version, identities("/subscriptions/x/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i", "{}"), 403, "LinkedAuthorizationFailed", "the linked subscription 'x' was not found"},
		{"none left", "PATCH", vm + version, identities(ids+"vm-identity", "null"), 400, "FailedIdentityOperation", "requires identities"},
		{"identities and None", "PATCH", vm + version, `{"identity":{"type":"None","userAssignedIdentities":{"` + ids + `vm-identity":null}}}`, 400, "FailedIdentityOperation", "non-UserAssigned"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := newCloud(t, nil).do(test.method, test.target, test.body)
			if a.status != test.status || a.code() != test.code || !strings.Contains(a.message(), test.message) {
				t.Errorf("%d %s: %s", a.status, a.code(), a.message())
			}
		})
	}
}

func TestAuthentication(t *testing.T) {
	c := newCloud(t, nil)
	good := c.token
	other := newCloud(t, nil)
	other.tokens = entra.NewTokens(must(entra.GenerateKeys()), other.world, "https://login.example")
	tests := []struct {
		name, header string
		status       int
		code         string
	}{
		{"good", "Bearer " + good, 200, ""},
		{"scheme in any case", "bearer " + good, 200, ""},
		{"audience without slash", "Bearer " + c.mint("p", "https://management.azure.com", time.Hour), 200, ""},
		{"audience of this cloud", "Bearer " + c.mint("p", base+"/", time.Hour), 200, ""},
		{"none", "", 401, "AuthenticationFailed"},
		{"basic", "Basic " + good, 401, "AuthenticationFailedInvalidHeader"},
		{"empty", "Bearer ", 401, "AuthenticationFailedInvalidHeader"},
		{"garbage", "Bearer garbage", 401, "InvalidAuthenticationToken"},
		{"other key", "Bearer " + other.mint("p", base+"/", time.Hour), 401, "InvalidAuthenticationToken"},
		{"other audience", "Bearer " + c.mint("p", "https://vault.azure.net", time.Hour), 401, "InvalidAuthenticationTokenAudience"},
		{"expired", "Bearer " + c.mint("p", base+"/", -time.Hour), 401, "ExpiredAuthenticationToken"},
		{"unsigned", "Bearer eyJhbGciOiJub25lIn0.e30.", 401, "InvalidAuthenticationToken"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.token = ""
			var header []string
			if test.header != "" {
				header = []string{"Authorization", test.header}
			}
			a := c.do("GET", "/subscriptions"+version, "", header...)
			if a.status != test.status || a.code() != test.code {
				t.Errorf("%d %s: %s", a.status, a.code(), a.message())
			}
			if (a.header.Get("Www-Authenticate") != "") != (test.status == 401) {
				t.Errorf("WWW-Authenticate %q", a.header.Get("Www-Authenticate"))
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestRoles(t *testing.T) {
	reader, operator := world.GUID("reader"), world.GUID("operator")
	c := newCloud(t, func(d *world.Document) {
		d.Settings.Authorization = world.AuthorizeRoles
		d.RoleAssignments = []world.RoleAssignment{
			{PrincipalID: reader, Scope: sub + "/resourceGroups/demo", Role: "Reader"},
			{PrincipalID: operator, Scope: sub + "/resourceGroups/demo", Role: "Virtual Machine Contributor"},
			{PrincipalID: operator, Scope: ids + "demo-identity", Role: "Managed Identity Operator"},
		}
	})
	tests := []struct {
		name, who, method, target, body string
		status                          int
		code                            string
	}{
		{"read", reader, "GET", vm + version, "", 200, ""},
		{"write without the right", reader, "PATCH", vm + version, identities(ids+"demo-identity", "{}"), 403, "AuthorizationFailed"},
		{"write", operator, "PATCH", vmss + version, identities(ids+"demo-identity", "{}"), 200, ""},
		{"assign without the right", operator, "PATCH", vm + version, identities(ids+"other-identity", "{}"), 403, "LinkedAuthorizationFailed"},
		{"list subscriptions", reader, "GET", "/subscriptions" + version, "", 200, ""},
		{"subscription", reader, "GET", sub + version, "", 200, ""},
		{"subscription of others", world.GUID("nobody"), "GET", sub + version, "", 404, "SubscriptionNotFound"},
		{"nobody", world.GUID("nobody"), "GET", vm + version, "", 403, "AuthorizationFailed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.token = c.mint(test.who, base, time.Hour)
			a := c.do(test.method, test.target, test.body)
			if a.status != test.status || a.code() != test.code {
				t.Errorf("%d %s: %s", a.status, a.code(), a.message())
			}
		})
	}
}

// TestWriteStory follows one write over the wire: the response, the operation, a second writer, the
// end.
func TestWriteStory(t *testing.T) {
	c := newCloud(t, nil)
	a := c.do("PATCH", strings.ToUpper(vmss)+version, identities(strings.ToLower(ids)+"DEMO-identity", "{}"))
	if a.status != 200 || state(a) != "Updating" || a.header.Get("Retry-After") != "10" {
		t.Fatalf("%d %v, Retry-After %q", a.status, a.body, a.header.Get("Retry-After"))
	}
	want := map[string]any{
		"type": "UserAssigned",
		"userAssignedIdentities": map[string]any{
			"/subscriptions/" + world.DefaultSubscription + "/resourcegroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo-identity": map[string]any{
				"clientId": "44444444-4444-4444-8444-444444440001", "principalId": "55555555-5555-4555-8555-555555550001",
			},
		},
	}
	if diff := cmp.Diff(want, a.body["identity"]); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	operation, monitor := a.header.Get("Azure-Asyncoperation"), a.header.Get("Location")
	if got := c.do("GET", operation, ""); got.body["status"] != "InProgress" {
		t.Errorf("operation: %v", got.body)
	}
	if got := c.do("GET", monitor, ""); got.status != 202 || got.header.Get("Location") != monitor {
		t.Errorf("monitor: %d, Location %q", got.status, got.header.Get("Location"))
	}
	if got := c.do("PATCH", vmss+version, identities(ids+"other-identity", "{}")); got.status != 409 || got.code() != "Conflict" {
		t.Errorf("second write: %d %s", got.status, got.code())
	}
	if got := c.do("GET", vmss+version, ""); state(got) != "Updating" {
		t.Errorf("meanwhile: %v", got.body)
	}
	c.now = c.now.Add(2 * time.Second)
	if got := c.do("GET", operation, ""); got.body["status"] != "Succeeded" || got.header.Get("Retry-After") != "" {
		t.Errorf("operation at the end: %v", got.body)
	}
	if got := c.do("GET", monitor, ""); got.status != 200 || state(got) != "Succeeded" {
		t.Errorf("monitor at the end: %d %v", got.status, got.body)
	}
	etag, _ := a.body["etag"].(string)
	if got := c.do("PATCH", vmss+version, identities(ids+"other-identity", "{}"), "If-Match", `"0"`); got.status != 412 {
		t.Errorf("old ETag: %d %s", got.status, got.code())
	}
	if got := c.do("PATCH", vmss+version, `{"tags":{"a":"b"}}`, "If-Match", etag); got.status != 200 || got.body["identity"] == nil {
		t.Errorf("a write of something else: %d %v", got.status, got.body)
	}
}

func state(a answer) any {
	properties, _ := a.body["properties"].(map[string]any)
	return properties["provisioningState"]
}

func TestReads(t *testing.T) {
	c := newCloud(t, nil)
	tests := []struct {
		target, key string
		want        any
	}{
		{"/tenants", "value", 1},
		{"/subscriptions", "value", 1},
		{sub, "displayName", "emulated"},
		{sub + "/resourcegroups", "value", 1},
		{sub + "/resourceGroups/DEMO", "name", "demo"},
		{sub + "/providers/Microsoft.Compute/virtualMachines", "value", 1},
		{compute + "/virtualMachineScaleSets", "value", 1},
		{vmss + "/virtualMachines", "value", 2},
		{vmss + "/virtualMachines/1", "name", "vmss-0_1"},
		{sub + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities", "value", 3},
		{strings.ToLower(ids) + "Demo-Identity", "name", "demo-identity"},
		{strings.ReplaceAll(vm, "/", "//"), "name", "vm-0"},
	}
	for _, test := range tests {
		a := c.do("GET", test.target+version, "")
		got := a.body[test.key]
		if list, ok := got.([]any); ok {
			got = len(list)
		}
		if a.status != 200 || got != test.want {
			t.Errorf("%s: %d, %s %v, want %v", test.target, a.status, test.key, got, test.want)
		}
	}
}

func TestMetadata(t *testing.T) {
	c := newCloud(t, nil)
	c.token = ""
	for _, version := range []string{"1.0", "2015-01-01", "2022-09-01"} {
		a := c.do("GET", "/metadata/endpoints?api-version="+version, "")
		auth, _ := a.body["authentication"].(map[string]any)
		if a.status != 200 || auth["loginEndpoint"] != "https://login.example/" {
			t.Errorf("%s: %d %v", version, a.status, a.body)
		}
	}
	if a := c.do("GET", "/metadata/endpoints?api-version=2019-05-01", ""); a.status != 200 {
		t.Errorf("the list: %d", a.status)
	}
}

// FuzzPath: no path causes a panic, or a response other than 401 to a request without a token.
func FuzzPath(f *testing.F) {
	for _, path := range []string{vm, vmss, "/metadata/endpoints", "/subscriptions/%2e%2e/x", "//", "/\x00", "/subscriptions;a=b"} {
		f.Add(path, "api-version=2024-07-01")
	}
	c := newCloud(f, func(d *world.Document) { d.Settings.Limits.Enabled = false })
	f.Fuzz(func(t *testing.T, path, query string) {
		for _, token := range []string{"", c.token} {
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
			r.URL.Path, r.URL.RawQuery = path, query
			r.Header.Set("Authorization", "Bearer "+token)
			w := httptest.NewRecorder()
			c.handler.ServeHTTP(w, r)
			if token == "" && w.Code != 401 && !strings.Contains(strings.ToLower(path), "metadata") {
				t.Errorf("%q without a token: %d", path, w.Code)
			}
		}
	})
}
