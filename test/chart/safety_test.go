package chart

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/google/go-cmp/cmp"
)

// No value set, old or new, makes a container more than it needs to be.
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
					confined(t, id(object), container)
				}
			}
		})
	}
}

func confined(t *testing.T, object string, container corev1.Container) {
	t.Helper()
	context := container.SecurityContext
	if context.Privileged != nil && *context.Privileged {
		t.Errorf("%s: privileged", object)
	}
	if context.AllowPrivilegeEscalation == nil || *context.AllowPrivilegeEscalation {
		t.Errorf("%s: privileges can grow", object)
	}
	if context.ReadOnlyRootFilesystem == nil || !*context.ReadOnlyRootFilesystem {
		t.Errorf("%s: root file system is writable", object)
	}
	var want []corev1.Capability
	if container.Name == "nmi" {
		want = []corev1.Capability{"NET_ADMIN"}
	}
	if diff := cmp.Diff(&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: want}, context.Capabilities); diff != "" {
		t.Errorf("%s: capabilities (-want +got)\n%s", object, diff)
	}
}

// MIC is root only where it reads files of the node.
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

// No role of ours reads secrets or has a wildcard.
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
					if all := slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs); slices.Contains(all, "*") || slices.Contains(all, "secrets") {
						t.Errorf("%s allows %v", id(object), rule)
					}
				}
			}
		})
	}
}

// The flags the programs take: a typo here would stop them at start.
func TestFlagsKnown(t *testing.T) {
	known := map[string][]string{
		"mic": strings.Fields(`kubeconfig cloudconfig forceNamespaced version syncRetryDuration leader-election-instance
			leader-election-namespace leader-election-name leader-election-duration http-probe-port prometheus-port enableProfile
			enableScaleFeatures createDeleteBatch clientQps immutable-user-msis config-map-name enable-type-upgrade
			type-upgrade-status-key update-user-msi-max-retry update-user-msi-retry-interval identity-assignment-reconcile-interval
			identity-detach-grace-period logging-format v`),
		"nmi": strings.Fields(`node nmi-listen-address nmi-port metadata-ip metadata-port ipt-update-interval-sec forceNamespaced
			MICNamespace http-probe-port retry-attempts-for-created retry-attempts-for-assigned find-identity-retry-interval
			enableProfile enableScaleFeatures block-instance-metadata metadata-header-required prometheus-port operation-mode
			allow-network-plugin-kubenet kubelet-config set-retry-after-header enable-conntrack-deletion logging-format v kubeconfig`),
	}
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			for _, object := range render(t, "--values", values) {
				spec, ok := podSpec(t, object)
				if !ok {
					continue
				}
				for _, arg := range spec.Containers[0].Args {
					flag, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
					if !slices.Contains(known[spec.Containers[0].Name], flag) {
						t.Errorf("%s has no flag %s", spec.Containers[0].Name, arg)
					}
				}
			}
		})
	}
}

// podSpec returns the pod template of a workload.
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
