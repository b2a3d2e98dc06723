package chart

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/testenv"
)

// Without NET_RAW a pod cannot send packets with another pod's address. A user's pod keeps it only
// where the policy does not apply.
func TestDropNetRaw(t *testing.T) {
	api := startCluster(t, "")
	for _, name := range []string{namespace, "shop", "legacy"} {
		api.namespace(t, name)
	}
	api.helm(t, "install", "podid", chartDir, "--set", "admission.dropNetRaw=enforce,admission.dropNetRawExcept={legacy}")
	pods := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods", "pods/ephemeralcontainers"}, Verbs: []string{"*"}}
	api.grant(t, "dev", "shop", pods)
	api.grant(t, "dev", "legacy", pods)
	dev := api.user(t, "dev")
	context := func(drop, add []corev1.Capability, privileged bool) *corev1.SecurityContext {
		return &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: drop, Add: add}, Privileged: &privileged}
	}
	all, raw := []corev1.Capability{"ALL"}, []corev1.Capability{"NET_RAW"}
	good := context(raw, nil, false)
	testenv.Succeeds(t, "the policy in force", func() error {
		if err := dev.Create(t.Context(), podWith("shop", "probe", nil, nil), client.DryRunAll); err == nil {
			return errors.New("the pod was accepted")
		}
		return nil
	})
	for name, test := range map[string]struct {
		in         string
		main, init *corev1.SecurityContext
		wrong      string
	}{
		"drops it":         {"shop", good, good, ""},
		"drops all":        {"shop", context(all, []corev1.Capability{"NET_ADMIN"}, false), good, ""},
		"nothing said":     {"shop", nil, good, "main"},
		"init container":   {"shop", good, nil, "init"},
		"drops another":    {"shop", context([]corev1.Capability{"CHOWN"}, nil, false), good, "main"},
		"adds it again":    {"shop", context(all, raw, false), good, "main"},
		"adds all":         {"shop", context(raw, all, false), good, "main"},
		"privileged":       {"shop", context(all, nil, true), good, "main"},
		"other namespaces": {"legacy", nil, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := dev.Create(t.Context(), podWith(test.in, "p", test.main, test.init), client.DryRunAll)
			switch {
			case test.wrong == "" && err != nil:
				t.Error(err)
			case test.wrong != "" && (err == nil || !strings.Contains(err.Error(), "NET_RAW must be dropped") || !strings.Contains(err.Error(), "in "+test.wrong)):
				t.Errorf("the API server says %v, want a refusal that names %s", err, test.wrong)
			}
		})
	}
	ephemeral(t, dev, podWith("shop", "running", good, good))

	api.helm(t, "upgrade", "podid", chartDir, "--set", "admission.dropNetRaw=warn")
	testenv.Succeeds(t, "a warning in place of a refusal", func() error {
		return dev.Create(t.Context(), podWith("shop", "p", nil, nil), client.DryRunAll)
	})
}

// ephemeral: a debug container must drop it, too, and a running pod can be labeled.
func ephemeral(t *testing.T, dev client.Client, pod *corev1.Pod) {
	t.Helper()
	testenv.Create(t, dev, pod)
	pod.Labels = map[string]string{"a": "b"}
	if err := dev.Update(t.Context(), pod); err != nil {
		t.Error(err)
	}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "debug", Image: "i", TerminationMessagePolicy: corev1.TerminationMessageReadFile, ImagePullPolicy: corev1.PullAlways,
	}}}
	if err := dev.SubResource("ephemeralcontainers").Update(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "in debug") {
		t.Errorf("a debug container with NET_RAW: %v", err)
	}
}

func podWith(in, name string, main, first *corev1.SecurityContext) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: in, Name: name},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: new(bool),
			Containers:                   []corev1.Container{{Name: "main", Image: "i", SecurityContext: main}},
			InitContainers:               []corev1.Container{{Name: "init", Image: "i", SecurityContext: first}},
		},
	}
}
