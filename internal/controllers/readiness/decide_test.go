package readiness

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/reason"
)

const node = "node-1"

func grant(name string) identity.Grant {
	return identity.Grant{Identity: &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name, UID: types.UID(name)},
		Spec:       v1.AzureIdentitySpec{ResourceID: "/id/" + name},
	}}
}

// on returns the assigned identity of a grant with the given state and reason.
func on(name, state, reason string, change ...func(*v1.AzureAssignedIdentity)) *v1.AzureAssignedIdentity {
	id := grant(name).Identity
	a := &v1.AzureAssignedIdentity{
		Spec: v1.AzureAssignedIdentitySpec{
			NodeName:         node,
			AzureIdentityRef: &v1.AzureIdentityCopy{ObjectMeta: id.ObjectMeta, Spec: v1.AzureIdentitySpec{ResourceID: "/ID/" + name}},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: state, Reason: reason},
	}
	if reason != "" {
		a.Status.Message = "because of " + reason
	}
	for _, c := range change {
		c(a)
	}
	return a
}

func have(status corev1.ConditionStatus, reason, message string) *corev1.PodCondition {
	return &corev1.PodCondition{Type: v1.PodConditionAssigned, Status: status, Reason: reason, Message: message}
}

func TestDecide(t *testing.T) {
	const no, yes = corev1.ConditionFalse, corev1.ConditionTrue
	two := []identity.Grant{grant("red"), grant("blue")}
	red := []identity.Grant{grant("red")}
	type all = []*v1.AzureAssignedIdentity
	for _, test := range []struct {
		name   string
		pod    Pod
		want   Verdict
		silent bool
	}{
		{
			name: "gate, all there",
			pod:  Pod{Gated: true, Grants: two, Assigned: all{on("blue", v1.StateAssigned, ""), on("red", v1.StateAssigned, "")}},
			want: Verdict{Status: yes, Reason: Assigned},
		},
		{
			name: "gate, one on its way",
			pod:  Pod{Gated: true, Grants: two, Assigned: all{on("blue", v1.StateCreated, ""), on("red", v1.StateAssigned, "")}},
			want: Verdict{Status: no, Reason: WaitingForIdentity, Message: "not yet on node node-1: team/blue", Passing: true},
		},
		{
			name: "gate, not written yet",
			pod:  Pod{Gated: true, Grants: two},
			want: Verdict{Status: no, Reason: WaitingForIdentity, Message: "not yet on node node-1: team/red, team/blue", Passing: true},
		},
		{
			name: "gate, refused",
			pod:  Pod{Gated: true, Grants: two, Assigned: all{on("blue", v1.StateCreated, "IdentityForbidden"), on("red", v1.StateAssigned, "")}},
			want: Verdict{Status: no, Reason: "IdentityForbidden", Message: "identity team/blue: because of IdentityForbidden"},
		},
		{
			name: "gate, refusal before trouble",
			pod:  Pod{Gated: true, Grants: two, Assigned: all{on("blue", v1.StateCreated, "NodeGroupMissing"), on("red", v1.StateCreated, "Throttled")}},
			want: Verdict{Status: no, Reason: "NodeGroupMissing", Message: "identity team/red: because of Throttled; identity team/blue: because of NodeGroupMissing"},
		},
		{
			name: "gate, no node",
			pod:  Pod{Gated: true, Grants: red, NodeName: "-"}, silent: true,
		},
		{
			name: "gate, no binding",
			pod:  Pod{Gated: true, Refusals: []*reason.Refusal{{Reason: reason.NoBinding, Message: "none"}}},
			want: Verdict{Status: no, Reason: "NoBinding", Message: "none (PID-202)", Passing: true},
		},
		{
			name: "gate, useless bindings in any order",
			pod: Pod{Gated: true, Refusals: []*reason.Refusal{
				{Reason: reason.OtherNamespace, Message: "b"}, {Reason: reason.IdentityBroken, Message: "a"},
			}},
			want: Verdict{Status: no, Reason: "IdentityBroken", Message: "a (PID-207); b (PID-205)"},
		},
		{
			name: "gate, host network",
			pod:  Pod{Gated: true, HostNetwork: true, Grants: red, Assigned: all{on("red", v1.StateAssigned, "")}},
			want: Verdict{Status: no, Reason: HostNetwork, Message: hostNetworkMessage + " (PID-211)"},
		},
		{
			name: "on another node",
			pod: Pod{Gated: true, Grants: red, Assigned: all{on("red", v1.StateAssigned, "", func(a *v1.AzureAssignedIdentity) {
				a.Spec.NodeName = "node-2"
			})}},
			want: Verdict{Status: no, Reason: WaitingForIdentity, Message: "not yet on node node-1: team/red", Passing: true},
		},
		{
			name: "of the identity before",
			pod: Pod{Gated: true, Grants: red, Assigned: all{on("red", v1.StateAssigned, "", func(a *v1.AzureAssignedIdentity) {
				a.Spec.AzureIdentityRef.UID = "old"
			})}},
			want: Verdict{Status: no, Reason: WaitingForIdentity, Message: "not yet on node node-1: team/red", Passing: true},
		},
		{
			name: "of another resource",
			pod: Pod{Gated: true, Grants: red, Assigned: all{on("red", v1.StateAssigned, "", func(a *v1.AzureAssignedIdentity) {
				a.Spec.AzureIdentityRef.Spec.ResourceID = "/id/old"
			})}},
			want: Verdict{Status: no, Reason: WaitingForIdentity, Message: "not yet on node node-1: team/red", Passing: true},
		},
		{
			name: "leaving",
			pod: Pod{Gated: true, Grants: red, Assigned: all{on("red", v1.StateAssigned, "", func(a *v1.AzureAssignedIdentity) {
				a.DeletionTimestamp = new(metav1.Now())
			})}},
			want: Verdict{Status: no, Reason: WaitingForIdentity, Message: "not yet on node node-1: team/red", Passing: true},
		},
		{
			name: "no gate, all there", pod: Pod{Grants: red, Assigned: all{on("red", v1.StateAssigned, "")}}, silent: true,
		},
		{
			name: "no gate, on its way", pod: Pod{Grants: red, Assigned: all{on("red", v1.StateCreated, "")}}, silent: true,
		},
		{
			name: "no gate, passing trouble", pod: Pod{Grants: red, Assigned: all{on("red", v1.StateCreated, "Throttled")}}, silent: true,
		},
		{
			name: "no gate, useless binding",
			pod:  Pod{Refusals: []*reason.Refusal{{Reason: reason.IdentityMissing, Message: "none"}}}, silent: true,
		},
		{
			name: "no gate, refused",
			pod:  Pod{Grants: red, Assigned: all{on("red", v1.StateCreated, "IdentityRefused")}},
			want: Verdict{Status: no, Reason: "IdentityRefused", Message: "identity team/red: because of IdentityRefused"},
		},
		{
			name: "no gate, not on Azure",
			pod:  Pod{Grants: red, Assigned: all{on("red", v1.StateCreated, "NodeNotOnAzure")}},
			want: Verdict{Status: no, Reason: "NodeNotOnAzure", Message: "identity team/red: because of NodeNotOnAzure"},
		},
		{
			name: "no gate, tried again", silent: true,
			pod: Pod{Have: have(no, "IdentityRefused", ""), Grants: red, Assigned: all{on("red", v1.StateCreated, "")}},
		},
		{
			name: "no gate, mended",
			pod:  Pod{Have: have(no, "IdentityRefused", ""), Grants: red, Assigned: all{on("red", v1.StateAssigned, "")}},
			want: Verdict{Status: yes, Reason: Assigned},
		},
		{
			name: "no gate, binding gone",
			pod:  Pod{Have: have(no, "IdentityRefused", ""), Refusals: []*reason.Refusal{{Reason: reason.NoBinding}}},
			want: Verdict{Status: yes, Reason: NoIdentity},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			switch test.pod.NodeName {
			case "":
				test.pod.NodeName = node
			case "-":
				test.pod.NodeName = ""
			}
			got, speak := Decide(test.pod)
			if test.silent {
				if speak {
					t.Errorf("says %+v", got)
				}
				return
			}
			if diff := cmp.Diff(test.want, got); diff != "" || !speak {
				t.Errorf("speaks %t (-want +got):\n%s", speak, diff)
			}
		})
	}
}

func TestSays(t *testing.T) {
	v := Verdict{Status: corev1.ConditionFalse, Reason: "R", Message: "m"}
	if !v.Says(have(corev1.ConditionFalse, "R", "m")) {
		t.Error("the same is written again")
	}
	for _, other := range []*corev1.PodCondition{
		nil, have(corev1.ConditionTrue, "R", "m"), have(corev1.ConditionFalse, "Q", "m"), have(corev1.ConditionFalse, "R", "n"),
	} {
		if v.Says(other) {
			t.Errorf("%+v is not written over", other)
		}
	}
}

func TestPatch(t *testing.T) {
	before := have(corev1.ConditionFalse, "R", "m")
	before.LastTransitionTime = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	now := time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC)
	for _, test := range []struct {
		name   string
		status corev1.ConditionStatus
		since  string
	}{
		{"another reason", corev1.ConditionFalse, "2026-01-02T03:04:05Z"},
		{"another status", corev1.ConditionTrue, "2026-02-03T04:05:06Z"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := conditionPatch("uid", before, Verdict{Status: test.status, Reason: "Q"}, now)
			want := `{"metadata":{"uid":"uid"},"status":{"conditions":[{"type":"aadpodidentity.k8s.io/assigned","status":"` +
				string(test.status) + `","reason":"Q","message":"","lastTransitionTime":"` + test.since + `"}]}}`
			if err != nil || string(got) != want {
				t.Errorf("%s %v, want %s", got, err, want)
			}
		})
	}
}
