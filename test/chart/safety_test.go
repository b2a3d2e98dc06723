package chart

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// No set of values, old or new, gives a container more privileges than it needs.
func TestContainersConfined(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			for _, object := range render(t, "--values", values) {
				spec, ok := podSpec(t, object)
				if !ok {
					continue
				}
				if profile := spec.SecurityContext.SeccompProfile; profile == nil || profile.Type != corev1.SeccompProfileTypeRuntimeDefault {
					t.Errorf("%s: seccomp profile is not RuntimeDefault", id(object))
				}
				if spec.HostPID || spec.HostIPC || spec.HostNetwork != (object.GetKind() == "DaemonSet") {
					t.Errorf("%s: shares more of the host than NMI's network", id(object))
				}
				for _, container := range spec.Containers {
					confined(t, id(object), container, capabilities(spec, container.Name))
				}
			}
		})
	}
}

// capabilities returns those that a container needs. NMI needs none beside a holder.
func capabilities(spec corev1.PodSpec, container string) []corev1.Capability {
	held := slices.ContainsFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == "holder" })
	switch {
	case container == "holder":
		return []corev1.Capability{"BPF", "NET_ADMIN", "SYS_ADMIN"}
	case container == "nmi" && !held:
		return []corev1.Capability{"NET_ADMIN"}
	}
	return nil
}

func confined(t *testing.T, object string, container corev1.Container, want []corev1.Capability) {
	t.Helper()
	context := container.SecurityContext
	if context.Privileged != nil && *context.Privileged {
		t.Errorf("%s: privileged", object)
	}
	// The API server does not let it be false beside SYS_ADMIN.
	if !slices.Contains(want, "SYS_ADMIN") && (context.AllowPrivilegeEscalation == nil || *context.AllowPrivilegeEscalation) {
		t.Errorf("%s: privileges can grow", object)
	}
	if context.ReadOnlyRootFilesystem == nil || !*context.ReadOnlyRootFilesystem {
		t.Errorf("%s: root file system is writable", object)
	}
	if diff := cmp.Diff(&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: want}, context.Capabilities); diff != "" {
		t.Errorf("%s: capabilities (-want +got)\n%s", object, diff)
	}
}

// MIC runs as root only if it reads files of the node.
func TestMICUser(t *testing.T) {
	for values, want := range map[string]int64{"default": 0, "azurestack": 0, "adminsecret": 65532, "existingsecret": 65532, "legacy": 65532} {
		t.Run(values, func(t *testing.T) {
			objects := render(t, "--values", "testdata/values/"+values+".yaml")
			at := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Deployment" })
			spec, _ := podSpec(t, objects[at])
			if got := *spec.SecurityContext.RunAsUser; got != want {
				t.Errorf("MIC runs as user %d, want %d", got, want)
			}
			if nonRoot := *spec.SecurityContext.RunAsNonRoot; nonRoot != (want != 0) {
				t.Errorf("runAsNonRoot is %t", nonRoot)
			}
		})
	}
}

// No role of the chart reads secrets or has a wildcard, except NMI's if rbac.allowAccessToSecrets
// is set (legacy does).
func TestRolesNarrow(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			for _, object := range render(t, "--values", values) {
				if !strings.HasSuffix(object.GetKind(), "Role") {
					continue
				}
				var role rbacv1.ClusterRole
				convert(t, object, &role)
				for _, rule := range role.Rules {
					asked := name == "legacy" && strings.HasSuffix(role.Name, "-nmi")
					if asked && slices.Equal(rule.Resources, []string{"secrets"}) && slices.Equal(rule.Verbs, []string{"get"}) {
						continue
					}
					if all := slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs); slices.Contains(all, "*") || slices.Contains(all, "secrets") {
						t.Errorf("%s allows %v", id(object), rule)
					}
				}
			}
		})
	}
}

// Without the type upgrade MIC writes no objects of users.
func TestNoTypeUpgrade(t *testing.T) {
	for _, object := range render(t, "--set", "mic.typeUpgrade=false") {
		if object.GetKind() == "ClusterRole" && object.GetName() == "podid-mic" {
			var role rbacv1.ClusterRole
			convert(t, object, &role)
			for _, rule := range role.Rules {
				if slices.Contains(rule.Resources, "azureidentities") && slices.Contains(rule.Verbs, "update") {
					t.Errorf("MIC may write identities: %v", rule)
				}
			}
		}
		if spec, ok := podSpec(t, object); ok && object.GetKind() == "Deployment" && !slices.Contains(spec.Containers[0].Args, "--enable-type-upgrade=false") {
			t.Errorf("MIC gets no flag for it: %v", spec.Containers[0].Args)
		}
	}
}

// podSpec returns the pod spec of a workload.
func podSpec(t *testing.T, object *unstructured.Unstructured) (corev1.PodSpec, bool) {
	t.Helper()
	var spec corev1.PodSpec
	raw, ok, err := unstructured.NestedMap(object.Object, "spec", "template", "spec")
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return spec, false
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(raw, &spec, true); err != nil {
		t.Fatalf("%s: %v", id(object), err)
	}
	return spec, true
}

func convert(t *testing.T, object *unstructured.Unstructured, into any) {
	t.Helper()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, into); err != nil {
		t.Fatalf("%s: %v", id(object), err)
	}
}
