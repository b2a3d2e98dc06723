package events

import (
	"fmt"
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
	for i := range 1000 {
		assigned := &v1.AzureAssignedIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("team-", i%10)}}
		assigned.Spec.AzureBindingRef = &v1.AzureIdentityBindingCopy{ObjectMeta: assigned.ObjectMeta}
		events.Assigned(assigned, nil)
		events.NotAssigned(assigned, nil, "why")
	}
	if n := said[corev1.EventTypeNormal]; n < normalBurst || n > 8*normalBurst {
		t.Errorf("%d good news of 1000", n)
	}
	if n := said[corev1.EventTypeWarning]; n < warningBurst || n == 1000 {
		t.Errorf("%d warnings of 1000", n)
	}
}

// TestGreedyNamespace: a namespace with constant refusals does not silence the others.
func TestGreedyNamespace(t *testing.T) {
	said := tally{}
	events := New(said)
	complain := func(namespace, pod string) {
		events.PodComplaint(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod}}, &v1.AzureIdentity{}, "why")
	}
	for i := range 5000 {
		complain("evil", fmt.Sprint("pod-", i))
	}
	before := said[corev1.EventTypeWarning]
	if before > warningBurst+warningRate {
		t.Errorf("one namespace has %d Events of %d", before, shares*warningBurst)
	}
	for i := range 50 {
		complain("team", fmt.Sprint("pod-", i))
	}
	if n := said[corev1.EventTypeWarning] - before; n != 50 {
		t.Errorf("%d of 50 Events of the other namespace", n)
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
