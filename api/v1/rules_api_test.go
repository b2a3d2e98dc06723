package v1_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/identity"
)

const (
	guid       = "b9fe2d38-5f0c-4a0c-9a5e-1c9d4d7a7f01"
	otherGUID  = "c0ffee00-5f0c-4a0c-9a5e-1c9d4d7a7f02"
	resourceID = "/subscriptions/" + guid + "/resourceGroups/apps/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo"
)

// rule is one object that the schema accepts (wrong is empty) or rejects.
type rule struct{ name, object, wrong string }

func inGroup(name string) string { return strings.Replace(resourceID, "apps", name, 1) }

func managed(fields string) string {
	return fmt.Sprintf("{kind: AzureIdentity, spec: {type: 0, resourceID: %q%s}}", resourceID, fields)
}

func principal(kind int, fields string) string {
	return fmt.Sprintf("{kind: AzureIdentity, spec: {type: %d%s}}", kind, fields)
}

func binding(spec string) string { return "{kind: AzureIdentityBinding, spec: {" + spec + "}}" }

func rules() []rule {
	const (
		tenant = ", tenantID: " + guid
		app    = ", clientID: " + otherGUID
		secret = ", clientPassword: {name: s}"
	)
	return []rule{
		{"managed", managed(""), ""},
		{"managed, type left out", fmt.Sprintf("{kind: AzureIdentity, spec: {resourceID: %q}}", resourceID), ""},
		{"managed, all ids", managed(app + ", objectID: " + strings.ToUpper(guid)), ""},
		{"managed, empty ids", managed(`, clientID: "", tenantID: "", adEndpoint: "", objectID: ""`), ""},
		{"secret", principal(1, tenant+app+secret), ""},
		{"certificate", principal(2, tenant+app+", clientPassword: {name: s, namespace: ns}"), ""},
		{"federated", principal(3, tenant+app), ""},
		{"no spec", "kind: AzureIdentity", "spec: Required value: describe the identity"},
		{"empty spec", "{kind: AzureIdentity, spec: {}}", "spec.resourceID: Required value: type 0 needs the resource ID"},
		{"unknown type", principal(4, tenant+app), "spec.type: Invalid value: \"object\": use 0 (user-assigned managed identity)"},
		{"negative type", principal(-1, ""), "spec.type: Invalid value: \"object\": use 0"},
		{"resource group with a Kelvin sign", fmt.Sprintf("{kind: AzureIdentity, spec: {resourceID: %q}}", inGroup("ban\u212a")), "spec.resourceID: Invalid value: \"object\": has a letter that imitates a plain one"},
		{"federated, resource group with a long s", principal(3, tenant+app+fmt.Sprintf(", resourceID: %q", inGroup("\u017fql"))), "spec.resourceID: Invalid value: \"object\": has a letter that imitates a plain one"},
		{"resource group in Thai", fmt.Sprintf("{kind: AzureIdentity, spec: {resourceID: %q}}", inGroup("กลุ่ม-1")), ""},
		{"no resource ID", principal(0, app), "spec.resourceID: Required value: type 0 needs the resource ID of the user-assigned identity: az identity show"},
		{"client ID no GUID", managed(", clientID: demo"), `spec.clientID: Invalid value: "object": must be a GUID`},
		{"spelled as in v1.5", managed(", clientid: " + otherGUID), "spec: Forbidden: a field is spelled as before v1.6: write type, resourceID"},
		{"spelled as Go does", managed(", ClientPassword: {name: s}"), "spec: Forbidden: a field is spelled as before v1.6"},
		{"binding spelled as Go does", binding("azureIdentity: demo, selector: demo, Weight: 3"), "spec: Forbidden: a field is spelled as before v1.6: write azureIdentity, selector"},
		{"client ID in braces", managed(", clientID: '{" + guid + "}'"), "spec.clientID: Invalid value"},
		{"object ID no GUID", managed(", objectID: demo"), "spec.objectID: Invalid value: \"object\": must be a GUID"},
		{"secret without client ID", principal(1, tenant+secret), "spec.clientID: Required value: types 1, 2 and 3 need the client ID"},
		{"secret without tenant", principal(1, app+secret), "spec.tenantID: Required value: types 1, 2 and 3 need the tenant"},
		{"secret without secret", principal(1, tenant+app), "spec.clientPassword: Required value: types 1 and 2 need clientPassword.name"},
		{"secret, namespace only", principal(1, tenant+app+", clientPassword: {namespace: ns}"), "spec.clientPassword: Required value"},
		{"certificate without secret", principal(2, tenant+app+", clientPassword: {}"), "spec.clientPassword: Required value"},
		{"certificate without ids", principal(2, secret), "spec.clientID: Required value"},
		{"federated without ids", principal(3, ""), "spec.tenantID: Required value"},
		{"tenant by domain", principal(3, app+", tenantID: contoso.onmicrosoft.com"), ""},
		{"tenant adfs", principal(1, app+secret+", tenantID: adfs"), ""},
		{"federated, adfs", principal(3, app+", tenantID: adfs"), "spec.tenantID: Invalid value: \"object\": ADFS has no federated credentials"},
		{"federated, audience", principal(3, tenant+app+", federatedAudience: 'api://AzureADTokenExchangeUSGov'"), ""},
		{"federated, empty audience", principal(3, tenant+app+", federatedAudience: ''"), ""},
		{"federated, audience in two words", principal(3, tenant+app+", federatedAudience: 'a b'"), "spec.federatedAudience: Invalid value"},
		{"audience of another type", managed(", federatedAudience: x"), "spec.federatedAudience: Forbidden: only type 3 has an audience"},
		{"federated, managed identity", principal(3, tenant+app+fmt.Sprintf(", resourceID: %q", resourceID)), ""},
		{"federated, resource ID wrong", principal(3, tenant+app+", resourceID: /x"), "spec.resourceID: Invalid value: \"object\": leave it out for an application"},
		{"shared", principal(3, tenant+app+", sharedFrom: {namespace: platform, name: cloud.v1}"), ""},
		{"shared, other type", managed(", sharedFrom: {namespace: platform, name: cloud}"), "spec.sharedFrom: Forbidden: only identities of type 3"},
		{"shared, no name", principal(3, tenant+app+", sharedFrom: {namespace: platform}"), "spec.sharedFrom.name: Required value"},
		{"shared, dotted namespace", principal(3, tenant+app+", sharedFrom: {namespace: a.b, name: cloud}"), "spec.sharedFrom: Invalid value"},
		{"shared, path", principal(3, tenant+app+", sharedFrom: {namespace: a, name: ../cloud}"), "spec.sharedFrom: Invalid value"},
		{"tenant as URL", principal(3, app+", tenantID: 'https://sts.windows.net/x'"), "spec.tenantID: Invalid value: \"object\": must be a GUID, a domain"},
		{"tenant as path", principal(3, app+", tenantID: ../x"), "spec.tenantID: Invalid value"},
		{"auxiliary tenants", principal(1, tenant+app+secret+", auxiliaryTenantIDs: ["+guid+", contoso.com]"), ""},
		{"auxiliary tenants null", principal(1, tenant+app+secret+", auxiliaryTenantIDs: null"), ""},
		{"auxiliary tenants none", principal(1, tenant+app+secret+", auxiliaryTenantIDs: []"), ""},
		{"auxiliary tenant wrong", principal(1, tenant+app+secret+", auxiliaryTenantIDs: [x]"), "spec.auxiliaryTenantIDs: Invalid value"},
		{"authority", principal(1, tenant+app+secret+", adEndpoint: 'https://login.microsoftonline.us/'"), ""},
		{"authority in clear", principal(1, tenant+app+secret+", adEndpoint: 'http://login.microsoftonline.us/'"), "spec.adEndpoint: Invalid value: \"object\": must be an https URL"},
		{"authority no URL", principal(1, tenant+app+secret+", adEndpoint: login"), "spec.adEndpoint: Invalid value"},
		{"binding", binding("azureIdentity: demo.one, selector: My_app.1, weight: 7"), ""},
		{"binding without spec", "kind: AzureIdentityBinding", "spec: Required value: name the identity and the pods"},
		{"binding without identity", binding("selector: demo"), "spec.azureIdentity: Required value"},
		{"binding, empty identity", binding("azureIdentity: '', selector: demo"), "spec.azureIdentity: Required value"},
		{"binding, identity elsewhere", binding("azureIdentity: other/demo, selector: demo"), "spec.azureIdentity: Invalid value: \"object\": must be the name of an AzureIdentity in this namespace"},
		{"binding without selector", binding("azureIdentity: demo"), "spec.selector: Required value: set it to the value that the label aadpodidbinding has"},
		{"binding, empty selector", binding("azureIdentity: demo, selector: ''"), "spec.selector: Required value"},
		{"binding, expression", binding("azureIdentity: demo, selector: 'app=demo'"), "spec.selector: Invalid value: \"object\": must be one value of the label"},
		{"binding, long selector", binding("azureIdentity: demo, selector: " + strings.Repeat("a", 64)), "spec.selector: Invalid value"},
		{"exception", "{kind: AzurePodIdentityException, spec: {podLabels: {app: mic}}}", ""},
		{"exception without spec", "kind: AzurePodIdentityException", "spec: Required value: name labels of pods"},
		{"exception, no labels", "{kind: AzurePodIdentityException, spec: {podLabels: {}}}", "spec.podLabels: Required value: name at least one label"},
		{"exception, null labels", "{kind: AzurePodIdentityException, spec: {podLabels: null}}", "spec.podLabels: Required value"},
		{"assigned", "{kind: AzureAssignedIdentity, spec: {pod: p}, status: {status: Created}}", ""},
	}
}

func (s *server) testRules(t *testing.T) {
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			checkRefusal(t, s.tryCreate(t.Context(), parse(t, r.object)), r.wrong)
		})
	}
}

func checkRefusal(t *testing.T, err error, wrong string) {
	t.Helper()
	switch {
	case wrong == "" && err != nil:
		t.Errorf("refused: %v", err)
	case wrong != "" && err == nil:
		t.Errorf("accepted, want %q", wrong)
	case wrong != "" && !strings.Contains(err.Error(), wrong):
		t.Errorf("got  %v\nwant %s", err, wrong)
	}
}

// testResourceIDs checks that the schema and the program accept the same resource IDs.
func (s *server) testResourceIDs(t *testing.T) {
	for _, id := range []string{
		resourceID,
		strings.ToLower(resourceID),
		strings.ToUpper(resourceID),
		strings.Replace(resourceID, "apps", "größe_(1).x-y", 1),
		strings.Replace(resourceID, "/demo", "/"+strings.Repeat("a", 128), 1),
		inGroup("กลุ่ม-1"),
		inGroup("समूह-1"),
		inGroup("E\u0301te\u0301"), // decomposed
		inGroup("ÉTÉ"),
		inGroup("\u0301"),
		inGroup("٣"),
		inGroup("ban\u212a"),
		inGroup("\u017fql"),
		inGroup("\u0130d"),
		inGroup("\u0131d"),
		inGroup("a\u200db"), // a zero-width joiner
		inGroup("a\u203fb"), // a tie
		inGroup(strings.Repeat("e\u0301", 45)),
		inGroup(strings.Repeat("e\u0301", 46)),
		strings.Replace(resourceID, "subscriptions", "\u017fub\u017fcriptions", 1),
		resourceID + "/",
		resourceID + " ",
		" " + resourceID,
		resourceID + "/federatedIdentityCredentials/x",
		strings.TrimPrefix(resourceID, "/"),
		strings.Replace(resourceID, guid, "<subscription>", 1),
		strings.Replace(resourceID, guid, guid+"0", 1),
		strings.Replace(resourceID, "/apps/", "//", 1),
		strings.Replace(resourceID, "apps", "apps.", 1),
		strings.Replace(resourceID, "apps", strings.Repeat("a", 91), 1),
		strings.Replace(resourceID, "ManagedIdentity", "Compute", 1),
		strings.Replace(resourceID, "userAssignedIdentities", "virtualMachines", 1),
		strings.Replace(resourceID, "/demo", "/"+strings.Repeat("a", 129), 1),
		strings.Replace(resourceID, "/demo", "/-demo", 1),
		strings.Replace(resourceID, "/demo", "/demo?x", 1),
		strings.Replace(resourceID, "/demo", "/", 1),
		strings.Replace(resourceID, "/demo", "/de\nmo", 1),
		"demo",
		"https://management.azure.com" + resourceID,
	} {
		t.Run(id, func(t *testing.T) {
			object := parse(t, fmt.Sprintf("{kind: AzureIdentity, spec: {type: 0, resourceID: %q}}", id))
			wrong := ""
			if _, err := identity.ParseResourceID(id); err != nil {
				wrong = "must look like " + identity.ResourceIDShape
			}
			if strings.ContainsFunc(id, ascii.FoldsToASCII) {
				wrong = "has a letter that imitates a plain one"
			}
			checkRefusal(t, s.tryCreate(t.Context(), object), wrong)
		})
	}
}
