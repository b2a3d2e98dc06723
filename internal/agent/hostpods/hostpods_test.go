package hostpods

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/hook/protocol"
	"github.com/podid-io/podid/internal/privileged"
)

func TestChoice(t *testing.T) {
	const off, label, bound = privileged.HostPodsOff, privileged.HostPodsLabel, privileged.HostPodsBound
	labels := func(pairs ...string) map[string]string {
		all := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			all[pairs[i]] = pairs[i+1]
		}
		return all
	}
	for _, tt := range []struct {
		name   string
		labels map[string]string
		want   []Choice // of those with which it is captured
	}{
		{"none", nil, nil},
		{"capture", labels(v1.CaptureHostNetworkLabel, "true"), []Choice{label}},
		{"not capture", labels(v1.CaptureHostNetworkLabel, "false"), nil},
		{"another value", labels(v1.CaptureHostNetworkLabel, "True"), nil},
		{"binding", labels(v1.BindingLabel, "app"), []Choice{bound}},
		{"empty binding", labels(v1.BindingLabel, ""), nil},
		{"both", labels(v1.BindingLabel, "app", v1.CaptureHostNetworkLabel, "true"), []Choice{label, bound}},
	} {
		for _, c := range []Choice{off, label, bound, "other"} {
			for _, host := range []bool{true, false} {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: tt.labels}, Spec: corev1.PodSpec{HostNetwork: host}}
				if got, want := c.Of(pod), host && slices.Contains(tt.want, c); got != want {
					t.Errorf("%s, %s, host network %v: %v", tt.name, c, host, got)
				}
			}
		}
	}
}

// TestSet: the holder is to be asked again when the pods change, and when the control group of one
// of them has appeared, and not otherwise.
func TestSet(t *testing.T) {
	s := NewSet()
	key := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "ns", Name: name} }
	for _, step := range []struct {
		what  string
		do    func()
		again bool
		want  []string
	}{
		{"first", func() { s.Set(key("a"), "uid-a") }, true, []string{"uid-a"}},
		{"the same", func() { s.Set(key("a"), "uid-a") }, false, []string{"uid-a"}},
		{"second", func() { s.Set(key("b"), "uid-b") }, true, []string{"uid-a", "uid-b"}},
		{"two of one group", func() { s.Set(key("c"), "uid-b") }, true, []string{"uid-a", "uid-b"}},
		{"its group", func() { s.Appeared("uid-b") }, true, []string{"uid-a", "uid-b"}},
		{"another's group", func() { s.Appeared("uid-d") }, false, []string{"uid-a", "uid-b"}},
		{"replaced", func() { s.Set(key("a"), "uid-e") }, true, []string{"uid-b", "uid-e"}},
		{"one of two is gone", func() { s.Remove(key("c")) }, true, []string{"uid-b", "uid-e"}},
		{"gone", func() { s.Remove(key("b")) }, true, []string{"uid-e"}},
		{"not there", func() { s.Remove(key("b")) }, false, []string{"uid-e"}},
	} {
		_, changed := s.List()
		step.do()
		again := false
		select {
		case <-changed:
			again = true
		default:
		}
		if got, _ := s.List(); again != step.again || !slices.Equal(got, step.want) {
			t.Errorf("%s: %q, again %v, want %q, %v", step.what, got, again, step.want, step.again)
		}
	}
	for i := range 2 * protocol.MaxPods {
		s.Set(key(fmt.Sprint("pod-", i)), types.UID(fmt.Sprint("uid-", i)))
	}
	if got, _ := s.List(); len(got) != protocol.MaxPods {
		t.Errorf("%d pods", len(got))
	}
}
