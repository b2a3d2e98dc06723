package chart

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
)

// secretRights: NMI reads the Secrets of exactly the namespaces that the values name, and those
// that their identities refer to. It changes none.
func secretRights(t *testing.T, api cluster) {
	api.namespace(t, "shop")
	for _, test := range []struct {
		set  string
		want map[string]bool // by verb, namespace and perhaps name
	}{
		{"rbac.secretNamespaces={shop}", map[string]bool{"get shop": true, "get bank": false, "list shop": false, "watch shop": false, "update shop": false}},
		{"rbac.allowAccessToSecrets=true", map[string]bool{"get shop": true, "get bank": true, "list shop": false, "update bank": false}},
		{"rbac.allowAccessToSecrets=false", map[string]bool{"get shop": false, "get bank": false}},
		{
			"azureIdentities.p.type=1,azureIdentities.p.namespace=shop,azureIdentities.p.clientPassword.name=principal,azureIdentities.p.binding.selector=p," +
				"azureIdentities.p.tenantID=22222222-2222-2222-2222-222222222222,azureIdentities.p.clientID=33333333-3333-3333-3333-333333333333",
			map[string]bool{"get shop principal": true, "get shop": false, "list shop": false, "update shop principal": false, "get bank principal": false},
		},
	} {
		api.helm(t, "upgrade", "podid", chartDir, "--reset-values", "--values", "testdata/values/default.yaml", "--set", test.set)
		for what, want := range test.want {
			words := append(strings.Fields(what), "any")
			secrets := authorizationv1.ResourceAttributes{Verb: words[0], Resource: "secrets", Name: words[2], Namespace: words[1]}
			if may := allowed(t, api, "podid-nmi", secrets); may != want {
				t.Errorf("%s: %s: %t, want %t", test.set, what, may, want)
			}
		}
	}
}
