package identitystatus

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/reason"
)

func refusal(generation int64, reason, message string) *v1.AzureAssignedIdentity {
	return &v1.AzureAssignedIdentity{
		Spec: v1.AzureAssignedIdentitySpec{AzureIdentityRef: &v1.AzureIdentityCopy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "red", Generation: generation},
		}},
		Status: v1.AzureAssignedIdentityStatus{Status: v1.StateCreated, Reason: reason, Message: message},
	}
}

func TestDecide(t *testing.T) {
	const generation = 3
	refused, forbidden := refusal(generation, "IdentityRefused", "gone"), refusal(generation, "IdentityForbidden", "role")
	condition := func(status metav1.ConditionStatus, reason, message string) *metav1.Condition {
		return &metav1.Condition{Type: v1.ConditionAssignable, Status: status, Reason: reason, Message: message, ObservedGeneration: generation}
	}
	older := condition(metav1.ConditionFalse, "IdentityRefused", "gone")
	older.ObservedGeneration = generation - 1
	type all = []*v1.AzureAssignedIdentity
	for _, test := range []struct {
		name             string
		have             *metav1.Condition
		refused          []*v1.AzureAssignedIdentity
		assigned, needed bool
		want             *metav1.Condition
	}{
		{name: "never in trouble", assigned: true, needed: true},
		{name: "nobody needs it"},
		{name: "refused", refused: all{refused}, want: condition(metav1.ConditionFalse, "IdentityRefused", "gone")},
		{name: "refused here, assigned there", refused: all{refused}, assigned: true, want: condition(metav1.ConditionFalse, "IdentityRefused", "gone")},
		{name: "said already", have: condition(metav1.ConditionFalse, "IdentityRefused", "gone"), refused: all{refused}},
		{name: "two reasons", refused: all{refused, forbidden}, want: condition(metav1.ConditionFalse, "IdentityForbidden", "role")},
		{name: "two reasons, one said", have: condition(metav1.ConditionFalse, "IdentityRefused", "gone"), refused: all{forbidden, refused}},
		{name: "another reason", have: condition(metav1.ConditionFalse, "IdentityRefused", "gone"), refused: all{forbidden}, want: condition(metav1.ConditionFalse, "IdentityForbidden", "role")},
		{name: "refused again", have: condition(metav1.ConditionTrue, Recovered, ""), refused: all{refused}, want: condition(metav1.ConditionFalse, "IdentityRefused", "gone")},
		{name: "refused anew", have: older, refused: all{refused}, want: condition(metav1.ConditionFalse, "IdentityRefused", "gone")},
		{name: "about the spec before", have: older, refused: all{refusal(generation-1, "IdentityRefused", "gone")}},
		{name: "on its way again", have: condition(metav1.ConditionFalse, "IdentityRefused", "gone"), needed: true},
		{name: "over", have: condition(metav1.ConditionFalse, "IdentityRefused", "gone"), assigned: true, needed: true, want: condition(metav1.ConditionTrue, Recovered, "Azure assigns the identity again")},
		{name: "still over", have: condition(metav1.ConditionTrue, Recovered, "x"), assigned: true, needed: true},
		{name: "pods gone", have: condition(metav1.ConditionFalse, "IdentityRefused", "gone"), want: condition(
			metav1.ConditionUnknown, NotNeeded, "Azure refused the identity, and no pod on a node of Azure's needs it now; it is tried again when one does",
		)},
		{name: "pods back", have: condition(metav1.ConditionUnknown, NotNeeded, ""), assigned: true, needed: true, want: condition(metav1.ConditionTrue, Recovered, "Azure assigns the identity again")},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Generation: generation}}
			id.Status.Conditions = []metav1.Condition{{Type: "Others", Status: metav1.ConditionFalse, Reason: "R"}}
			if test.have != nil {
				id.Status.Conditions = append(id.Status.Conditions, *test.have)
			}
			if diff := cmp.Diff(test.want, Decide(id, test.refused, test.assigned, test.needed)); diff != "" {
				t.Errorf("condition (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTally(t *testing.T) {
	said := func(status, reason string) *v1.AzureAssignedIdentity {
		return &v1.AzureAssignedIdentity{Status: v1.AzureAssignedIdentityStatus{Status: status, Reason: reason}}
	}
	type all = []*v1.AzureAssignedIdentity
	assigned, created, bare := said(v1.StateAssigned, ""), said(v1.StateCreated, ""), said(v1.StateCreated, reason.NodeNotOnAzure.Name())
	for _, test := range []struct {
		name             string
		all              all
		assigned, needed bool
	}{
		{name: "none"},
		{name: "on its node", all: all{created, assigned}, assigned: true, needed: true},
		{name: "on its way", all: all{created}, needed: true},
		{name: "the node group's trouble", all: all{said(v1.StateCreated, reason.GroupForbidden.Name())}, needed: true},
		{name: "nodes that are not Azure's", all: all{bare, bare}},
		{name: "one node that is not Azure's", all: all{bare, created}, needed: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if assigned, needed := Tally(test.all); assigned != test.assigned || needed != test.needed {
				t.Errorf("assigned %t, needed %t; want %t, %t", assigned, needed, test.assigned, test.needed)
			}
		})
	}
}

func TestKeys(t *testing.T) {
	done := refusal(1, "IdentityRefused", "")
	done.Status.Status = v1.StateAssigned
	for _, test := range []struct {
		name     string
		assigned *v1.AzureAssignedIdentity
		want     string
	}{
		{"refused", refusal(1, "IdentityForbidden", ""), "team/red refused:team/red"},
		{"the node group's trouble", refusal(1, "NodeGroupForbidden", ""), "team/red"},
		{"no trouble", refusal(1, "", ""), "team/red"},
		{"assigned", done, "team/red"},
		{"of nothing", &v1.AzureAssignedIdentity{}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := strings.Join(Keys(test.assigned), " "); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}
