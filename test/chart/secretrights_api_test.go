package chart

import (
	"fmt"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
)

// secretRights: NMI reads the Secrets of exactly the namespaces that the values name, and changes
// none.
func secretRights(t *testing.T, api cluster) {
	api.namespace(t, "shop")
	for _, test := range []struct {
		set  string
		want map[string]bool // by verb and namespace
	}{
		{"rbac.secretNamespaces={shop}", map[string]bool{"get shop": true, "get bank": false, "list shop": false, "watch shop": false, "update shop": false}},
		{"rbac.allowAccessToSecrets=true", map[string]bool{"get shop": true, "get bank": true, "list shop": false, "update bank": false}},
		{"rbac.allowAccessToSecrets=false", map[string]bool{"get shop": false, "get bank": false}},
	} {
		api.helm(t, "upgrade", "podid", chartDir, "--reset-values", "--values", "testdata/values/default.yaml", "--set", test.set)
		for what, want := range test.want {
			var verb, in string
			if _, err := fmt.Sscan(what, &verb, &in); err != nil {
				t.Fatal(err)
			}
			secrets := authorizationv1.ResourceAttributes{Verb: verb, Resource: "secrets", Name: "any", Namespace: in}
			if may := allowed(t, api, "podid-nmi", secrets); may != want {
				t.Errorf("%s: %s: %t, want %t", test.set, what, may, want)
			}
		}
	}
}
