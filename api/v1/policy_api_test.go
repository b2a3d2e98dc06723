package v1_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	v1 "github.com/podid-io/podid/api/v1"
)

func policyOf(rule string) string {
	return "{kind: AzureIdentityPolicy, metadata: {name: default}, spec: {mode: enforce, rules: [" + rule + "]}}"
}

func policyEntry(entry string) string {
	return policyOf("{name: r, namespaces: [a], identities: [" + entry + "]}")
}

// What the schema of AzureIdentityPolicy accepts (wrong is empty) and rejects.
func policyRules() []rule {
	return []rule{
		{"no rules", "{kind: AzureIdentityPolicy, metadata: {name: default}, spec: {mode: warn}}", ""},
		{"everything", policyEntry("{}"), ""},
		{"all fields", policyOf(`{name: r, namespaces: [a, b], namespaceSelector: {matchLabels: {team: a}}, serviceAccounts: [api], plainIMDS: true, identities: [{
			resourceIDs: [` + strings.Replace(resourceID, "demo", "team-a-*", 1) + `], clientIDs: [` + guid + `], tenantIDs: [contoso.com], types: [0, 3],
			authorities: [login.microsoftonline.com], audiences: ["https://vault.azure.net"]}]}`), ""},
		{"plain IMDS alone", policyOf("{name: r, namespaces: [a], plainIMDS: true}"), ""},
		{"all namespaces", policyOf("{name: r, namespaceSelector: {}, identities: [{}]}"), ""},
		{"group of another script", policyEntry(`{resourceIDs: ["` + strings.Replace(resourceID, "/apps/", "/กลุ่ม-*/", 1) + `"]}`), ""},
		{"another name", strings.Replace(policyEntry("{}"), "name: default", "name: team-a", 1), "the cluster has one policy: name it default"},
		{"unknown mode", strings.Replace(policyEntry("{}"), "enforce", "audit", 1), `supported values: "off", "warn", "enforce"`},
		{"no mode", "{kind: AzureIdentityPolicy, metadata: {name: default}, spec: {rules: []}}", "spec.mode: Required value"},
		{"no namespaces", policyOf("{name: r, identities: [{}]}"), "say which namespaces: set namespaces, or namespaceSelector"},
		{"nothing allowed", policyOf("{name: r, namespaces: [a]}"), "say what is allowed: set identities ([{}] allows all), or plainIMDS: true"},
		{"two rules of one name", policyOf("{name: r, namespaces: [a], identities: [{}]}, {name: r, namespaces: [b], identities: [{}]}"), "Duplicate value"},
		{"rule without name", policyOf("{namespaces: [a], identities: [{}]}"), "name: Required value"},
		{"wildcard for all", policyEntry(`{resourceIDs: ["*"]}`), "should match '^/(?i:subscriptions)/"},
		{"wildcard over slashes", policyEntry(`{resourceIDs: ["/subscriptions/*/userAssignedIdentities/x"]}`), "should match"},
		{"client ID no GUID", policyEntry(`{clientIDs: ["*"]}`), "should match"},
		{"unknown type", policyEntry("{types: [4]}"), "should be less than or equal to 3"},
	}
}

func (s *server) testPolicy(t *testing.T) {
	for _, tt := range policyRules() {
		t.Run(tt.name, func(t *testing.T) {
			err := s.tryCreate(t.Context(), parsePolicy(t, tt.object))
			if tt.wrong == "" && err != nil || tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong)) {
				t.Errorf("error %v, want %q", err, tt.wrong)
			}
		})
	}
}

func parsePolicy(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	object.SetAPIVersion(v1.GroupVersion.String())
	object.SetNamespace(metav1.NamespaceNone)
	return object
}
