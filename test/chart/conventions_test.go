// What users of other charts expect to be able to set. The golden file "everything" has the rest.

package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestImages(t *testing.T) {
	const digest = "sha256:0123456789012345678901234567890123456789012345678901234567890123"
	for set, want := range map[string]string{
		"mic.tag=": "ghcr.io/podid-io/podid/nmi:0.1.0",
		"global.imageRegistry=r.example.com:5000":                                    "r.example.com:5000/podid-io/podid/nmi:0.1.0",
		"global.imageRegistry=r.example.com,image.repository=localhost/a/b":          "r.example.com/a/b/nmi:0.1.0",
		"global.imageRegistry=r.example.com,image.repository=team/podid,nmi.tag=1.0": "r.example.com/team/podid/nmi:1.0",
		"global.imageRegistry=r.example.com/,image.repository=ghcr.io/a/":            "r.example.com/a/nmi:0.1.0",
		"nmi.digest=" + digest: "ghcr.io/podid-io/podid/nmi:0.1.0@" + digest,
	} {
		t.Run(set, func(t *testing.T) {
			for _, container := range daemonSet(t, "--set", set).Spec.Template.Spec.Containers {
				if container.Image != want {
					t.Errorf("image %s of %s, want %s", container.Image, container.Name, want)
				}
			}
		})
	}
}

// A name of one's own for a ServiceAccount is everywhere: a policy about another account would
// protect nothing.
func TestServiceAccountNames(t *testing.T) {
	args := []string{"--set", "mic.serviceAccount.name=controller,nmi.serviceAccount.name=agent,identityPolicy.mode=enforce,federation.limitToNodes=true"}
	for _, object := range render(t, args...) {
		rendered := text(t, []*unstructured.Unstructured{object})
		for _, account := range []string{"system:serviceaccount:podid-system:podid-mic", "system:serviceaccount:podid-system:podid-nmi", "serviceAccountName == 'podid-"} {
			if strings.Contains(rendered, account) {
				t.Errorf("%s: names %s", id(object), account)
			}
		}
		if strings.HasSuffix(object.GetKind(), "Binding") && strings.Contains(rendered, "kind: ServiceAccount\n  name: podid-") {
			t.Errorf("%s binds the default ServiceAccount", id(object))
		}
		if object.GetKind() == "ServiceAccount" && object.GetName() != "controller" && object.GetName() != "agent" {
			t.Errorf("there is %s", id(object))
		}
	}
}

// A user's field wins over the chart's, also when it is false, and the others stay.
func TestSecurityContexts(t *testing.T) {
	spec := daemonSet(t, "--set", "nmi.securityContext.readOnlyRootFilesystem=false,nmi.podSecurityContext.fsGroup=7").Spec.Template.Spec
	container := spec.Containers[0].SecurityContext
	if *container.ReadOnlyRootFilesystem || *container.AllowPrivilegeEscalation || *container.RunAsUser != 65532 {
		t.Errorf("NMI's security context is %v", container)
	}
	if spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || *spec.SecurityContext.FSGroup != 7 {
		t.Errorf("the pod's security context is %v", spec.SecurityContext)
	}
	if holder := spec.Containers[1].SecurityContext; !*holder.ReadOnlyRootFilesystem {
		t.Errorf("the holder's security context is %v", holder)
	}
}

// Capabilities of a user come on top of those that the programs need, and never in place of
// dropping the others.
func TestCapabilities(t *testing.T) {
	args := []string{"--set", "nmi.securityContext.capabilities.add={SYS_PTRACE},nmi.holder.securityContext.capabilities.add={SYS_PTRACE,BPF}"}
	containers := daemonSet(t, args...).Spec.Template.Spec.Containers
	confined(t, "NMI", containers[0], []corev1.Capability{"SYS_PTRACE"})
	want := &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"BPF", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"}}
	if diff := cmp.Diff(want, containers[1].SecurityContext.Capabilities); diff != "" {
		t.Errorf("the holder's capabilities (-want +got)\n%s", diff)
	}
}

// A label or an annotation of the user never replaces one that the chart relies on, and is never
// beside it (parse refuses that).
func TestChartLabelsWin(t *testing.T) {
	args := []string{"--set", "podMonitor.enabled=true,serviceMonitor.enabled=true,prometheusRule.enabled=true"}
	for _, labels := range []string{
		"customLabels", "mic.podLabels", "nmi.podLabels", "mic.serviceAccount.labels", "nmi.serviceAccount.labels",
		"podMonitor.labels", "serviceMonitor.labels", "prometheusRule.labels",
	} {
		args = append(args, "--set", fmt.Sprintf(`%[1]s.app\.kubernetes\.io/part-of=shop,%[1]s.app\.kubernetes\.io/component=x,%[1]s.tier=a,%[1]s.podid\.io/component=x,%[1]s.number=1`, labels))
	}
	args = append(args, "--set", `nmi.annotations.podid\.io/chart=x,nmi.annotations.mine=1,nmi.podAnnotations.kubectl\.kubernetes\.io/default-container=x`)
	for _, object := range render(t, args...) {
		labels := object.GetLabels()
		if labels["number"] == "1" && labels["app.kubernetes.io/part-of"] != "podid" {
			t.Errorf("%s has the labels %v", id(object), labels)
		}
		if object.GetKind() == "Deployment" {
			pod, _, _ := unstructured.NestedStringMap(object.Object, "spec", "template", "metadata", "labels")
			if pod["podid.io/component"] != "podid-mic" || pod["app.kubernetes.io/component"] != "mic" {
				t.Errorf("MIC's pods have the labels %v", pod)
			}
		}
	}
	set := daemonSet(t, args...)
	if set.Annotations["podid.io/chart"] != "podid" || set.Annotations["mine"] != "1" {
		t.Errorf("the DaemonSet has the annotations %v", set.Annotations)
	}
	if name := set.Spec.Template.Annotations["kubectl.kubernetes.io/default-container"]; name != "nmi" {
		t.Errorf("the default container is %s", name)
	}
}

// On OpenShift, pods without an own entry in its SecurityContextConstraints must not name a user.
func TestOpenShiftUsers(t *testing.T) {
	for openshift, want := range map[string]bool{"true": false, "false": true} {
		found := 0
		for _, object := range render(t, "--set", "crds.upgrade=true,crds.keep=false,nmi.cleanupOnUninstall=true,openshift.enabled="+openshift) {
			fields := map[string][]string{"Pod": {"spec", "securityContext"}, "Job": {"spec", "template", "spec", "securityContext"}}[object.GetKind()]
			if fields == nil {
				continue
			}
			found++
			context, _, _ := unstructured.NestedMap(object.Object, fields...)
			_, user := context["runAsUser"]
			if _, group := context["runAsGroup"]; user != want || group != want || context["runAsNonRoot"] != true {
				t.Errorf("openshift %s: %s has %v", openshift, id(object), context)
			}
		}
		if found != 4 {
			t.Errorf("%d pods, want two Jobs for the CRDs, one for the nodes, and a test", found)
		}
	}
}

// A Job for the CRDs ends, and Helm reports why, before its own timeout of five minutes.
func TestCRDJobsEnd(t *testing.T) {
	for _, object := range render(t, "--set", "crds.upgrade=true,crds.keep=false") {
		policy := object.GetAnnotations()["helm.sh/hook-delete-policy"]
		switch {
		case object.GetLabels()["app.kubernetes.io/component"] != "crds":
		case object.GetKind() != "Job":
			if !strings.Contains(policy, "hook-failed") {
				t.Errorf("%s stays when it fails: %s", id(object), policy)
			}
		default:
			var job batchv1.Job
			convert(t, object, &job)
			if seconds := job.Spec.ActiveDeadlineSeconds; seconds == nil || *seconds >= 300 || job.Spec.TTLSecondsAfterFinished == nil {
				t.Errorf("%s has no end: %+v", id(object), job.Spec)
			}
			if strings.Contains(policy, "hook-failed") {
				t.Errorf("%s: its log is gone when it failed", id(object))
			}
		}
	}
}

// MIC reaches what it needs, whatever writes the policy down.
func TestNetworkPolicies(t *testing.T) {
	for flavor, kind := range map[string]string{
		"kubernetes": "networking.k8s.io/v1 NetworkPolicy", "cilium": "cilium.io/v2 CiliumNetworkPolicy", "calico": "projectcalico.org/v3 NetworkPolicy",
	} {
		t.Run(flavor, func(t *testing.T) {
			found := false
			for _, object := range render(t, "--set", "networkPolicy.enabled=true,networkPolicy.ports={443,16443},mic.prometheusPort=9999,openshift.enabled=true,nmi.extraArgs={--agent-address=169.254.171.9},networkPolicy.flavor="+flavor) {
				if object.GetAPIVersion()+" "+object.GetKind() != kind {
					continue
				}
				found = true
				rendered := text(t, []*unstructured.Unstructured{object})
				wants := []string{"169.254.169.254/32", "443", "16443", "53", "5353", "8080", "9999"}
				if flavor != "cilium" { // it judges before address translation
					wants = append(wants, "169.254.171.9/32")
				}
				for _, want := range wants {
					if !strings.Contains(rendered, want) {
						t.Errorf("the policy does not name %s:\n%s", want, rendered)
					}
				}
				if flavor != "kubernetes" {
					continue
				}
				var policy networkingv1.NetworkPolicy
				convert(t, object, &policy)
				if len(policy.Spec.Egress) != 3 || len(policy.Spec.Ingress) != 1 {
					t.Errorf("the policy is %+v", policy.Spec)
				}
			}
			if !found {
				t.Errorf("no %s", kind)
			}
		})
	}
}

// AKS Automatic allows no writes in kube-system.
func TestNothingInKubeSystem(t *testing.T) {
	for _, object := range render(t, "--set", "installAKSAddonException=false") {
		if object.GetNamespace() == "kube-system" {
			t.Errorf("%s", id(object))
		}
	}
}

// The chart's alerts are those of config/alerts.
func TestAlertsFresh(t *testing.T) {
	want, got := folder(t, "../../config/alerts"), folder(t, filepath.Join(chartDir, "files", "alerts"))
	if *update {
		for name, content := range want {
			if err := os.WriteFile(filepath.Join(chartDir, "files", "alerts", name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the chart's alerts are not those of config/alerts: run go test ./test/chart -update\n%s", diff)
	}
}

// helm test has a pod that must be refused, and one that must get a token where the values name a
// binding. Both fit a namespace with Pod Security's level restricted.
func TestHelmTest(t *testing.T) {
	for set, want := range map[string]map[string]string{
		"mic.replicas=2": {"podid-system/podid-test-refusal": "--ask=refusal"},
		"tests.enabled=false,tests.selector=shop": {},
		"tests.selector=shop,tests.namespace=web": {"web/podid-test-refusal": "--ask=refusal", "web/podid-test-token": "--ask=token"},
	} {
		t.Run(set, func(t *testing.T) {
			got := map[string]string{}
			for _, object := range render(t, "--set", set) {
				if object.GetKind() != "Pod" {
					continue
				}
				var pod corev1.Pod
				convert(t, object, &pod)
				got[pod.Namespace+"/"+pod.Name] = pod.Spec.Containers[0].Args[0]
				confined(t, id(object), pod.Spec.Containers[0], nil)
				if label := pod.Labels["aadpodidbinding"]; (label == "shop") != strings.HasSuffix(pod.Name, "-token") {
					t.Errorf("%s has the label %q", pod.Name, label)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the tests (-want +got)\n%s", diff)
			}
		})
	}
}
