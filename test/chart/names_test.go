// The names of aad-pod-identity, kept by nameOverride, fullnameOverride or an alias.

package chart

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
)

// However the old names are kept, the immutable selectors are those of aad-pod-identity.
func TestOldNames(t *testing.T) {
	umbrella := umbrella(t, "aad-pod-identity")
	for name, args := range map[string][]string{
		"nameOverride":     {chartDir, "--set", "nameOverride=aad-pod-identity"},
		"fullnameOverride": {chartDir, "--set", "fullnameOverride=aad-pod-identity"},
		"alias":            {umbrella, "--set", "aad-pod-identity.mic=null,aad-pod-identity.nmi.updateStrategy=null"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := runHelm(t, append([]string{"template", "pod-identity", "--namespace", namespace, "--kube-version", "1.34.0"}, args...)...)
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, object := range parse(t, out) {
				if object.GetKind() != "DaemonSet" {
					continue
				}
				found++
				var set appsv1.DaemonSet
				convert(t, object, &set)
				want := map[string]string{
					"app.kubernetes.io/name": "aad-pod-identity", "app.kubernetes.io/instance": "pod-identity", "app.kubernetes.io/component": "nmi",
				}
				if diff := cmp.Diff(want, set.Spec.Selector.MatchLabels); diff != "" || set.Name != "aad-pod-identity-nmi" {
					t.Errorf("%s selects (-want +got)\n%s", set.Name, diff)
				}
				if surge := set.Spec.UpdateStrategy.RollingUpdate.MaxSurge.String(); surge != "0" {
					t.Errorf("surge %s: the new pod waits for ports that the old agent holds", surge)
				}
			}
			if found != 1 {
				t.Errorf("%d DaemonSets", found)
			}
		})
	}
}

// Where Helm cannot look into the cluster, values add the names that RoleBindings refer to.
func TestUserFacingNames(t *testing.T) {
	found := map[string]bool{}
	for _, object := range render(t, "--set", "rbac.createUserFacingClusterRoles=true,rbac.userFacingClusterRoleNames={aad-pod-identity,podid}") {
		if found[id(object)] {
			t.Errorf("%s is there twice", id(object))
		}
		found[id(object)] = true
	}
	for _, name := range []string{"podid-view", "podid-edit", "aad-pod-identity-view", "aad-pod-identity-edit"} {
		if !found["ClusterRole//"+name] {
			t.Errorf("no ClusterRole %s", name)
		}
	}
}

// umbrella makes a chart that has the chart as a dependency, under an alias.
func umbrella(t *testing.T, alias string) string {
	t.Helper()
	dir := t.TempDir()
	chart := "apiVersion: v2\nname: umbrella\nversion: 1.0.0\ndependencies:\n- {name: podid, version: '*', alias: " + alias + "}\n"
	if err := os.WriteFile(filepath.Join(dir, "Chart.yaml"), []byte(chart), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "charts", "podid"), os.DirFS(chartDir)); err != nil {
		t.Fatal(err)
	}
	return dir
}
