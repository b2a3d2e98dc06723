package chart

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// The steps of docs/migrate.md: a release of the old chart is upgraded to this one with its own
// values, and rolled back.
func TestMigrate(t *testing.T) {
	for name, test := range map[string]struct {
		values []string
		daemon string // the name of NMI's DaemonSet afterward
	}{
		"new names": {nil, "podid-nmi"},
		// Selectors are immutable: with the old name, the new ones must be equal to the old ones.
		"same names": {[]string{"--set", "nameOverride=aad-pod-identity"}, "aad-pod-identity-nmi"},
	} {
		t.Run(name, func(t *testing.T) {
			api := startCluster(t, chartDir+"/crds")
			api.helm(t, "install", "pod-identity", "testdata/predecessor", "--create-namespace")
			before := identityUID(t, api)

			api.helm(t, append([]string{"upgrade", "pod-identity", chartDir, "--values", "testdata/migrate.yaml"}, test.values...)...)
			daemons := list(t, api, schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DaemonSet"})
			if len(daemons) != 1 || daemons[0].GetName() != test.daemon {
				t.Errorf("the DaemonSets are %v, want %s alone", names(daemons), test.daemon)
			}
			exceptions := list(t, api, schema.GroupVersionKind{Group: "aadpodidentity.k8s.io", Version: "v1", Kind: "AzurePodIdentityException"})
			if len(exceptions) != 2 {
				t.Errorf("the exceptions are %v, want ours for MIC and for the add-ons", names(exceptions))
			}
			if after := identityUID(t, api); after != before {
				t.Error("the upgrade recreated the identity: its pods had none for a while")
			}

			api.helm(t, "rollback", "pod-identity", "1")
			daemons = list(t, api, schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DaemonSet"})
			if len(daemons) != 1 || daemons[0].GetName() != "aad-pod-identity-nmi" {
				t.Errorf("after the rollback the DaemonSets are %v", names(daemons))
			}
			if after := identityUID(t, api); after != before {
				t.Error("the rollback recreated the identity")
			}
		})
	}
}

func identityUID(t *testing.T, api cluster) types.UID {
	t.Helper()
	identities := list(t, api, schema.GroupVersionKind{Group: "aadpodidentity.k8s.io", Version: "v1", Kind: "AzureIdentity"})
	if len(identities) != 1 {
		t.Fatalf("there are %d identities, want the one of the values", len(identities))
	}
	return identities[0].GetUID()
}

func names(objects []unstructured.Unstructured) []string {
	var all []string
	for _, object := range objects {
		all = append(all, object.GetNamespace()+"/"+object.GetName())
	}
	return all
}
