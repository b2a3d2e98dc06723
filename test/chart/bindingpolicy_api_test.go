// Who may bind which identity, by the chart's admission policy.

package chart

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/testenv"
)

func TestRequireUseVerb(t *testing.T) {
	api := startCluster(t, "")
	api.helm(t, "install", "podid", chartDir, "--create-namespace", "--set", "rbac.createUserFacingClusterRoles=true")
	api.namespace(t, "shop")
	const group = "aadpodidentity.k8s.io"
	write := rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"azureidentitybindings"}, Verbs: []string{"get", "create", "patch", "delete"}}
	api.grant(t, "alice", "shop", write, rbacv1.PolicyRule{
		APIGroups: []string{group}, Resources: []string{"azureidentities"}, ResourceNames: []string{"web"}, Verbs: []string{"use"},
	})
	api.grant(t, "bob", "shop", write, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"azureidentities"}, Verbs: []string{"get", "update"}})
	api.grant(t, "carol", "shop", write)
	api.grant(t, "carol", "default", rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"azureidentities"}, Verbs: []string{"use"}})
	editors := &rbacv1.RoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "podid-edit"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "editor"}},
	}
	editors.Namespace, editors.Name = "shop", "editors"
	testenv.Create(t, api, editors, object(t, binding("made-before", "payments", "shop")))
	create := func(user, identity string) func() error {
		who := api.user(t, user)
		return func() error {
			return who.Create(t.Context(), object(t, binding("new", identity, "shop")), client.DryRunAll)
		}
	}
	patch := func(user, text string) func() error {
		who := api.user(t, user)
		return func() error {
			return who.Patch(t.Context(), object(t, binding("made-before", "", "")), client.RawPatch(types.MergePatchType, []byte(text)), client.DryRunAll)
		}
	}
	api.attempts(t, map[string]attempt{"off by default": {create("bob", "web"), ""}})
	api.helm(t, "upgrade", "podid", chartDir, "--set", "rbac.createUserFacingClusterRoles=true", "--set", "admission.requireUseVerb=true")
	const refused = "you may not use the AzureIdentity "
	api.attempts(t, map[string]attempt{
		"may use it":            {create("alice", "web"), ""},
		"may use another":       {create("alice", "payments"), refused + "payments"},
		"may write identities":  {create("bob", "web"), refused + "web"},
		"may use it elsewhere":  {create("carol", "web"), refused + "web"},
		"may create identities": {create("editor", "web"), ""},
		"administrator": {func() error {
			return api.Create(t.Context(), object(t, binding("new", "web", "shop")), client.DryRunAll)
		}, ""},
		"changes the identity":  {patch("alice", `{"spec": {"azureIdentity": "web"}}`), ""},
		"changes it to another": {patch("bob", `{"spec": {"azureIdentity": "web"}}`), refused + "web"},
		"changes the selector":  {patch("alice", `{"spec": {"selector": "mallory"}}`), refused + "payments"},
		"changes a label":       {patch("alice", `{"metadata": {"labels": {"a": "b"}}}`), ""},
	})
}

func binding(name, identity, selector string) string {
	return "{kind: AzureIdentityBinding, metadata: {name: " + name + ", namespace: shop}, spec: {azureIdentity: '" + identity + "', selector: '" + selector + "'}}"
}
