package chart

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// podSecurity: the API server's own admission of Pod Security accepts the pods of the chart at the
// level that the documentation names, and a namespace with a lower one is warned about.
func podSecurity(t *testing.T, api cluster) {
	t.Helper()
	levels := map[string]corev1.Namespace{}
	for _, level := range []string{"restricted", "baseline", "privileged"} {
		ns := corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "level-" + level, Labels: map[string]string{"pod-security.kubernetes.io/enforce": level}}}
		if err := api.Create(t.Context(), &ns); err != nil {
			t.Fatal(err)
		}
		levels[level] = ns
	}
	for name, want := range map[string]string{"podid-nmi": "privileged", "podid-mic": "privileged", "podid-mic, adminsecret": "restricted", "podid-test-refusal": "restricted"} {
		values := "testdata/values/default.yaml"
		if strings.HasSuffix(name, "adminsecret") {
			values = "testdata/values/adminsecret.yaml"
		}
		lowest := ""
		for _, level := range []string{"restricted", "baseline", "privileged"} {
			pod := podFrom(t, render(t, "--values", values), strings.TrimSuffix(name, ", adminsecret"))
			pod.Namespace = levels[level].Name
			if err := api.Create(t.Context(), pod, client.DryRunAll); err == nil {
				lowest = level
				break
			}
		}
		if lowest != want {
			t.Errorf("the lowest level of %s is %q, want %s", name, lowest, want)
		}
	}
	own := &corev1.Namespace{}
	if err := api.Get(t.Context(), client.ObjectKey{Name: namespace}, own); err != nil {
		t.Fatal(err)
	}
	for _, level := range []string{"baseline", "privileged"} {
		own.Labels["pod-security.kubernetes.io/enforce"] = level
		if err := api.Update(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		api.helm(t, "upgrade", "podid", chartDir, "--reset-values")
		said := fmt.Sprint(list(t, api, schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DaemonSet"}))
		if warned := strings.Contains(said, "has the Pod Security level baseline"); warned != (level == "baseline") {
			t.Errorf("in a namespace with the level %s: warned %t", level, warned)
		}
	}
}

// podFrom returns a pod as the workload of that name makes it.
func podFrom(t *testing.T, objects []*unstructured.Unstructured, name string) *corev1.Pod {
	t.Helper()
	for _, object := range objects {
		if object.GetName() != name {
			continue
		}
		pod := &corev1.Pod{}
		if object.GetKind() == "Pod" {
			convert(t, object, pod)
		} else if template, ok, _ := unstructured.NestedMap(object.Object, "spec", "template"); ok {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, pod); err != nil {
				t.Fatal(err)
			}
		} else {
			continue
		}
		pod.Spec.ServiceAccountName, pod.Spec.PriorityClassName, pod.Name = "", "", "p"
		pod.Spec.AutomountServiceAccountToken = new(bool)
		return pod
	}
	t.Fatalf("no pod of %s", name)
	return nil
}
