package chart

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/testenv"
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
		// Labels of a user do not hide whose DaemonSet it is.
		"same names, own labels": {[]string{"--set", `nameOverride=aad-pod-identity,customLabels.app\.kubernetes\.io/part-of=shop`}, "aad-pod-identity-nmi"},
		"full names":             {[]string{"--set", "fullnameOverride=aad-pod-identity"}, "aad-pod-identity-nmi"},
	} {
		t.Run(name, func(t *testing.T) {
			api := startCluster(t, chartDir+"/crds")
			api.helm(t, "install", "pod-identity", "testdata/predecessor", "--create-namespace")
			before := identityUID(t, api)

			bindOldRole(t, api)
			failedUpgrade(t, api, test.values)

			api.helm(t, append([]string{"upgrade", "pod-identity", chartDir, "--values", "testdata/migrate.yaml"}, test.values...)...)
			daemons := list(t, api, schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DaemonSet"})
			if len(daemons) != 1 || daemons[0].GetName() != test.daemon {
				t.Errorf("the DaemonSets are %v, want %s alone", names(daemons), test.daemon)
			}
			exceptions := list(t, api, schema.GroupVersionKind{Group: "aadpodidentity.k8s.io", Version: "v1", Kind: "AzurePodIdentityException"})
			if len(exceptions) != 2 {
				t.Errorf("the exceptions are %v, want ours for MIC and for the add-ons", names(exceptions))
			}
			if api.can(t, "team", "shop", "create", "azureidentities") != nil {
				t.Error("the RoleBinding to a role of the old chart gives no right any more")
			}
			if test.daemon == "aad-pod-identity-nmi" {
				takesOver(t, api, test.values)
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

// Side by side, as documented: before its uninstall, the old release lets go of the objects that
// its values made. The new one takes them over. They are never deleted.
func TestSideBySide(t *testing.T) {
	api := startCluster(t, chartDir+"/crds")
	api.helm(t, "install", "pod-identity", "testdata/predecessor", "--create-namespace")
	before := identityUID(t, api)
	api.helm(t, "install", "podid", chartDir, "--values", "testdata/migrate.yaml", "--set", "azureIdentities=null")

	annotate(t, api, "keep")
	api.helm(t, "upgrade", "pod-identity", "testdata/predecessor", "--set", "azureIdentities=null")
	api.helm(t, "uninstall", "pod-identity")
	take := []string{"upgrade", "podid", chartDir, "--values", "testdata/migrate.yaml", "--take-ownership"}
	if !helm3(t) {
		take = append(take, "--force-conflicts")
	}
	api.helm(t, take...)
	annotate(t, api, "")
	api.helm(t, "upgrade", "podid", chartDir, "--values", "testdata/migrate.yaml")
	if after := identityUID(t, api); after != before {
		t.Error("the move recreated the identity")
	}
	for _, object := range ofValues(t, api) {
		if owner := object.GetAnnotations()["meta.helm.sh/release-name"]; owner != "podid" {
			t.Errorf("%s belongs to %q", id(&object), owner)
		}
	}
	api.helm(t, "upgrade", "podid", chartDir, "--values", "testdata/migrate.yaml", "--set", "azureIdentities=null")
	if left := ofValues(t, api); len(left) > 0 {
		t.Errorf("the values make %v no more, and they are still there", names(left))
	}
}

// ofValues lists the objects that the value azureIdentities made.
func ofValues(t *testing.T, api cluster) []unstructured.Unstructured {
	t.Helper()
	return append(
		list(t, api, schema.GroupVersionKind{Group: "aadpodidentity.k8s.io", Version: "v1", Kind: "AzureIdentity"}),
		list(t, api, schema.GroupVersionKind{Group: "aadpodidentity.k8s.io", Version: "v1", Kind: "AzureIdentityBinding"})...,
	)
}

// annotate sets Helm's policy for these objects, or removes it if it is empty.
func annotate(t *testing.T, api cluster, policy string) {
	t.Helper()
	for _, object := range ofValues(t, api) {
		annotations := object.GetAnnotations()
		delete(annotations, "helm.sh/resource-policy")
		if policy != "" {
			annotations["helm.sh/resource-policy"] = policy
		}
		object.SetAnnotations(annotations)
		if err := api.Update(t.Context(), &object); err != nil {
			t.Fatal(err)
		}
	}
}

// bindOldRole gives a team a user-facing role of the old chart.
func bindOldRole(t *testing.T, api cluster) {
	t.Helper()
	api.namespace(t, "shop")
	testenv.Create(t, api, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "team"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "pod-identity-aad-pod-identity-edit"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "team"}},
	})
}

// failedUpgrade: the API server refuses the new DaemonSet, and the running pods keep their rights.
func failedUpgrade(t *testing.T, api cluster, values []string) {
	t.Helper()
	args := slices.Concat([]string{
		"upgrade", "pod-identity", chartDir, "--kubeconfig", api.kubeconfig, "--namespace", namespace,
		"--values", "testdata/migrate.yaml", "--set", "nmi.updateStrategy.type=Never",
	}, values)
	if _, err := runHelm(t, args...); err == nil || !strings.Contains(err.Error(), "updateStrategy") {
		t.Fatalf("the upgrade did not fail at the DaemonSet: %v", err)
	}
	oldRights(t, api, true)
}

// oldRights asks for a right that only the old chart's roles give.
func oldRights(t *testing.T, api cluster, want bool) {
	t.Helper()
	for _, account := range []string{"aad-pod-identity-mic", "aad-pod-identity-nmi"} {
		what := authorizationv1.ResourceAttributes{Verb: "update", Resource: "endpoints", Namespace: "default"}
		if may := allowed(t, api, account, what); may != want {
			t.Errorf("%s has the rights of aad-pod-identity: %t, want %t", account, may, want)
		}
	}
}

// takesOver: until no old pod runs any more, one pod of a node follows the other, since both need
// its ports, and the old rights stay. After that, an upgrade makes the release like any other.
func takesOver(t *testing.T, api cluster, values []string) {
	t.Helper()
	upgrade := slices.Concat([]string{"upgrade", "pod-identity", chartDir, "--values", "testdata/migrate.yaml"}, values)
	for _, step := range []struct {
		updated int32 // of three pods
		old     bool
	}{{1, true}, {3, false}} {
		daemon := &appsv1.DaemonSet{}
		key := client.ObjectKey{Namespace: namespace, Name: "aad-pod-identity-nmi"}
		if err := api.Get(t.Context(), key, daemon); err != nil {
			t.Fatal(err)
		}
		rolling := daemon.Spec.UpdateStrategy.RollingUpdate
		if rolling.MaxSurge.String() != "0" || rolling.MaxUnavailable.String() != "1" {
			t.Errorf("surge %v, unavailable %v: the new pods wait for the ports of the old ones", rolling.MaxSurge, rolling.MaxUnavailable)
		}
		oldRights(t, api, true)
		daemon.Status.DesiredNumberScheduled, daemon.Status.UpdatedNumberScheduled = 3, step.updated
		if err := api.Status().Update(t.Context(), daemon); err != nil {
			t.Fatal(err)
		}
		api.helm(t, upgrade...)
		oldRights(t, api, step.old)
	}
	var daemon appsv1.DaemonSet
	if err := api.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "aad-pod-identity-nmi"}, &daemon); err != nil {
		t.Fatal(err)
	}
	if surge := daemon.Spec.UpdateStrategy.RollingUpdate.MaxSurge.String(); surge != "10%" || daemon.Annotations["podid.io/takes-over"] != "" {
		t.Errorf("after the move: surge %s, annotations %v", surge, daemon.Annotations)
	}
	policies := list(t, api, schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicy"})
	if !slices.ContainsFunc(policies, func(o unstructured.Unstructured) bool { return o.GetName() == "aad-pod-identity-mic-caller" }) {
		t.Error("the policies for MIC's token are still missing")
	}
}

// can returns nil if a user may do something in a namespace.
func (c cluster) can(t *testing.T, user, in, verb, resource string) error {
	t.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:               user,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Group: "aadpodidentity.k8s.io", Verb: verb, Resource: resource, Namespace: in},
	}}
	testenv.Create(t, c, review)
	if !review.Status.Allowed {
		return fmt.Errorf("%s may not %s %s in %s", user, verb, resource, in)
	}
	return nil
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
