package announce

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/podid-io/podid/api/v1"
)

// tally counts events by type.
type tally map[string]int

func (c tally) Eventf(_, _ runtime.Object, eventtype, _, _, _ string, _ ...any) { c[eventtype]++ }

func TestFlood(t *testing.T) {
	said := tally{}
	events := New(said)
	for range 1000 {
		events.Assigned(&v1.AzureAssignedIdentity{}, nil)
		events.NotAssigned(&v1.AzureAssignedIdentity{}, nil, "why")
	}
	if n := said[corev1.EventTypeNormal]; n < normalBurst || n > 4*normalBurst {
		t.Errorf("%d good news of 1000", n)
	}
	if n := said[corev1.EventTypeWarning]; n < warningBurst || n == 1000 {
		t.Errorf("%d warnings of 1000", n)
	}
}

func TestComplaint(t *testing.T) {
	said := tally{}
	events := New(said)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "web"}}
	id := &v1.AzureIdentity{}
	for _, complaint := range []string{"", "Azure is away", "Azure is away", "", "", "Azure is away"} {
		events.PodComplaint(pod, id, complaint)
	}
	if n := said[corev1.EventTypeWarning]; n != 2 {
		t.Errorf("%d complaints, want one each time it begins", n)
	}
	events.ForgetPod("team", "web")
	if len(events.said) != 0 {
		t.Error("remembers a pod that is gone")
	}
}
