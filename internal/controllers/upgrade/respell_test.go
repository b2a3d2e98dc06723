package upgrade

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestRespell(t *testing.T) {
	for _, test := range []struct{ name, kind, before, after string }{
		{
			"small letters", "AzureIdentity",
			`{spec: {type: 1, clientid: c, tenantid: t, clientpassword: {name: n, namespace: s}, adresourceid: r, adendpoint: e, auxiliarytenantids: [a]}}`,
			`{spec: {type: 1, clientID: c, tenantID: t, clientPassword: {name: n, namespace: s}, adResourceID: r, adEndpoint: e, auxiliaryTenantIDs: [a]}}`,
		},
		{"as Go", "AzureIdentity", `{spec: {Type: 0, ResourceID: r, ClientID: c}}`, `{spec: {type: 0, resourceID: r, clientID: c}}`},
		{"anyhow", "AzureIdentity", `{spec: {resourceId: r, CLIENTID: c}}`, `{spec: {resourceID: r, clientID: c}}`},
		{"default in front", "AzureIdentity", `{spec: {type: 0, Type: 2, clientID: "", clientid: c}}`, `{spec: {type: 2, clientID: c}}`},
		{"today's name wins", "AzureIdentity", `{spec: {resourceID: new, resourceid: old}}`, `{spec: {resourceID: new}}`},
		{"nested", "AzureIdentity", `{spec: {clientPassword: {name: "", namespace: ""}, ClientPassword: {Name: n, Namespace: s}}}`, `{spec: {clientPassword: {name: n, namespace: s}}}`},
		{"nested alone", "AzureIdentity", `{spec: {clientPassword: {Name: n, Namespace: s}}}`, `{spec: {clientPassword: {name: n, namespace: s}}}`},
		{"two old ones", "AzureIdentity", `{spec: {resourceid: "", ResourceID: r}}`, `{spec: {resourceID: r}}`},
		{"binding", "AzureIdentityBinding", `{spec: {AzureIdentity: i, Selector: s, Weight: 3}}`, `{spec: {azureIdentity: i, selector: s, weight: 3}}`},
		{
			"assigned", "AzureAssignedIdentity",
			`{spec: {azureidentityref: {metadata: {name: i}, spec: {resourceid: r}}, azurebindingref: {spec: {azureidentity: i, selector: s}},
			  pod: p, podnamespace: n, nodename: o}, Status: {status: Assigned}}`,
			`{spec: {azureIdentityRef: {kind: AzureIdentity, apiVersion: aadpodidentity.k8s.io/v1, metadata: {name: i}, spec: {resourceID: r}},
			  azureBindingRef: {kind: AzureIdentityBinding, apiVersion: aadpodidentity.k8s.io/v1, spec: {azureIdentity: i, selector: s}},
			  pod: p, podNamespace: n, nodename: o}, status: {status: Assigned}}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var names fields
			for _, k := range kinds() {
				if k.name == test.kind {
					names = k.fields
				}
			}
			got := parse(t, test.before)
			if !respell(got, names) {
				t.Error("found nothing to change")
			}
			complete(got)
			if diff := cmp.Diff(parse(t, test.after), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if respell(got, names) {
				t.Error("changes again what it has changed")
			}
		})
	}
}

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(text), &object); err != nil {
		t.Fatal(err)
	}
	return object
}
