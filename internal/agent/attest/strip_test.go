package attest

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
)

// TestStripAnnotations: only the hash of a static pod is kept. Anybody may set the annotation.
func TestStripAnnotations(t *testing.T) {
	const hash = "0123456789abcdef0123456789abcdef"
	for mirror, kept := range map[string]bool{hash: true, strings.Repeat("a", 256<<10): false, "": false} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{corev1.MirrorPodAnnotationKey: mirror, "other": "x"}}}
		Strip(pod)
		if got := pod.Annotations[corev1.MirrorPodAnnotationKey] != ""; got != kept || len(pod.Annotations) > 1 {
			t.Errorf("annotation of %d bytes: kept %v, want %v", len(mirror), pod.Annotations, kept)
		}
	}
}

// TestStripLabels: the labels of a pod are kept, but for those of a pod that has so many that it
// would fill the agent's memory. That one keeps those that have a meaning of their own.
func TestStripLabels(t *testing.T) {
	many := func(n int, more map[string]string) map[string]string {
		for i := range n {
			more[fmt.Sprint("x.example/", i)] = "b"
		}
		return more
	}
	binding := map[string]string{v1.BindingLabel: "app"}
	both := map[string]string{v1.BindingLabel: "app", v1.CaptureHostNetworkLabel: "true"}
	for name, c := range map[string]struct{ labels, want map[string]string }{
		"none":                  {nil, nil},
		"as many as there may":  {many(maxLabels, map[string]string{}), many(maxLabels, map[string]string{})},
		"one more":              {many(maxLabels+1, map[string]string{}), nil},
		"one more, and binding": {many(maxLabels, map[string]string{v1.BindingLabel: "app"}), binding},
		"one more, and both":    {many(maxLabels-1, maps.Clone(both)), both},
		"thousands":             {many(4900, map[string]string{v1.BindingLabel: "app"}), binding},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: c.labels}}
			Strip(pod)
			if diff := cmp.Diff(c.want, pod.Labels); diff != "" {
				t.Error(diff)
			}
		})
	}
}
