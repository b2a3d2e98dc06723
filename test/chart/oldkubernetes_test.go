// Kubernetes before 1.30, which has no validating admission policies.

package chart

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Without a policy that restricts NMI to its own node, NMI may not change nodes, and the chart
// still installs.
func TestOldKubernetes(t *testing.T) {
	for version, policies := range map[string]bool{"1.25.0": false, "1.29.15": false, "1.30.0": true, "1.34.0": true} {
		t.Run(version, func(t *testing.T) {
			found, changes := false, false
			for _, object := range render(t, "--kube-version", version) {
				found = found || strings.HasPrefix(object.GetKind(), "ValidatingAdmissionPolicy")
				if object.GetKind() != "ClusterRole" || object.GetLabels()["app.kubernetes.io/component"] != "nmi" {
					continue
				}
				var role rbacv1.ClusterRole
				convert(t, object, &role)
				for _, rule := range role.Rules {
					changes = changes || slices.Contains(rule.Resources, "nodes") && slices.Contains(rule.Verbs, "patch")
				}
			}
			args := daemonSet(t, "--kube-version", version).Spec.Template.Spec.Containers[0].Args
			off := slices.Contains(args, "--startup-taint=false")
			if found != policies || changes != policies || off == policies {
				t.Errorf("policies %t, NMI changes nodes %t, start-up taint off %t", found, changes, off)
			}
		})
	}
	for _, values := range [][]string{{"--kube-version", "1.29.0"}, {"--set", "nmi.startupTaint=false"}} {
		if _, err := template(t, append(values, "--set", "mic.agentTaintAfter=2m")...); err == nil || !strings.Contains(err.Error(), "nothing would remove the taint") {
			t.Errorf("%v, and MIC puts the taint on: %v", values, err)
		}
	}
}
