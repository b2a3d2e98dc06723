package chart

import (
	"slices"
	"strings"
	"testing"
)

// What has no effect, and what is risky, is in the notes of Helm, and in an annotation for users of
// Flux, Argo CD and Terraform.
func TestWarnings(t *testing.T) {
	for set, want := range map[string][]string{
		"mic.replicas=3": nil,
		"installCRDs=true,mic.updateUserMSIMaxRetry=3,nmi.micNamespace=x,nmi.enableScaleFeatures=false,nmi.enableConntrackDeletion=true,rbac.pspEnabled=true": {
			"installCRDs is ignored", "mic.updateUserMSIMaxRetry is ignored", "nmi.micNamespace is ignored",
			"nmi.enableScaleFeatures is ignored", "nmi.enableConntrackDeletion is ignored", "rbac.pspEnabled is ignored",
		},
		"azureIdentity.enabled=true,azureIdentity.namespace=a": {"azureIdentity is no value of this chart and has no effect: did you mean azureIdentities?"},
		"mic.replica=2": {"mic.replica is no value of this chart and has no effect: did you mean mic.replicas?"},
		"mic.leaderElection.Name=a,nmi.Audit_Log=off": {"did you mean mic.leaderElection.name?", "did you mean nmi.auditLog?"},
		"crds.keep=false":                 {"helm uninstall deletes all identities"},
		"crds.upgrade=true":               nil,
		"enabled=true,tags.identity=true": nil, // conditions of an umbrella chart
		"nonsense.of.mine=1":              {"nonsense is no value of this chart and has no effect"},
		"forceNameSpaced=false":           {"write forceNamespaced"},
		"operationMode=managed,adminsecret.ClientID=a,forceNamespaced=false": {
			"adminsecret is ignored", "forceNamespaced=false is ignored", "did you mean adminsecret.clientID?",
		},
		"nmi.tolerations=null":                   {"nmi.tolerations does not tolerate every taint"},
		"rbac.createUserFacingClusterRoles=true": {"rbac.createUserFacingClusterRoles lets every user"},
		"rbac.allowAccessToSecrets=true":         {"rbac.allowAccessToSecrets lets NMI"},
		"rbac.enabled=false,azureIdentities.p.type=1,azureIdentities.p.namespace=shop,azureIdentities.p.clientPassword.name=s,azureIdentities.p.binding.selector=p": {
			"let NMI get their Secrets in shop",
		},
		"azureIdentities.p.type=2,azureIdentities.p.namespace=shop,azureIdentities.p.clientPassword.name=s,azureIdentities.p.clientPassword.namespace=safe,azureIdentities.p.binding.selector=p": {
			"the Secret s is in safe and its identity in shop",
		},
		"installMICException=false": {"without installMICException"},
	} {
		t.Run(set, func(t *testing.T) {
			var said []string
			if text := daemonSet(t, "--set", set).Annotations["podid.io/warnings"]; text != "" {
				said = strings.Split(text, "\n")
			}
			out := notes(t, "--set", set)
			if len(said) != len(want) || strings.Count(out, "\nWARNING: ") != len(want) {
				t.Errorf("%d warnings in the annotation and %d in the notes, want %d: %q", len(said), strings.Count(out, "\nWARNING: "), len(want), said)
			}
			for _, one := range want {
				if !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, one) }) {
					t.Errorf("the annotation does not say %q: %q", one, said)
				}
				if !strings.Contains(out, one) {
					t.Errorf("the notes do not say %q", one)
				}
			}
		})
	}
}

// notes returns what helm install says. Helm 3 needs a cluster for it.
func notes(t *testing.T, args ...string) string {
	t.Helper()
	if helm3(t) {
		t.Skip("Helm 3 shows no notes without a cluster")
	}
	out, err := runHelm(t, append([]string{"install", "podid", chartDir, "--namespace", namespace, "--dry-run=client"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Values that act are not called without effect.
func TestNoFalseWarning(t *testing.T) {
	for name, path := range valueSets(t) {
		if name == "legacy" || name == "legacy-list" || name == "managed" {
			continue // their old values are in TestWarnings
		}
		if said := daemonSet(t, "--values", path).Annotations["podid.io/warnings"]; strings.Contains(said, "no effect") || strings.Contains(said, "is ignored") {
			t.Errorf("%s: %s", name, said)
		}
	}
}
