package uninstall

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ledger"
)

const (
	group      = "vmss/rg/set"
	providerID = "azure:///subscriptions/S/resourceGroups/RG/providers/Microsoft.Compute/virtualMachineScaleSets/SET/virtualMachines/0"
)

func arm(name string) string {
	return "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/ids/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
}

// cluster has a pod "web" with identity red, a finished one, and a ledger with red,
// blue and green.
func cluster(change func(*State)) *State {
	s := &State{
		Pods: map[client.ObjectKey]*corev1.Pod{}, Nodes: map[string]string{"node": providerID},
		Identities: []v1.AzureIdentity{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "red"}, Spec: v1.AzureIdentitySpec{ResourceID: arm("RED"), ClientID: "c"},
		}},
		Bindings: []v1.AzureIdentityBinding{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "b"}, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "red", Selector: "web"},
		}},
		Assigned:    []v1.AzureAssignedIdentity{assigned("web"), assigned("job"), assigned("gone")},
		Ledgers:     []corev1.ConfigMap{ledgerOf(arm("red"), arm("blue"), arm("green"))},
		Deployments: []appsv1.Deployment{{ObjectMeta: metav1.ObjectMeta{Name: "podid-mic"}}},
	}
	s.Pods[client.ObjectKey{Namespace: "team", Name: "web"}] = pod("web", corev1.PodRunning)
	s.Pods[client.ObjectKey{Namespace: "team", Name: "job"}] = pod("job", corev1.PodSucceeded)
	if change != nil {
		change(s)
	}
	return s
}

func pod(name string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name, Labels: map[string]string{v1.BindingLabel: "web"}},
		Spec:       corev1.PodSpec{NodeName: "node"}, Status: corev1.PodStatus{Phase: phase},
	}
}

func assigned(pod string) v1.AzureAssignedIdentity {
	return v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: pod + "-team-red", Finalizers: []string{v1.Finalizer}},
		Spec:       v1.AzureAssignedIdentitySpec{Pod: pod, PodNamespace: "team", NodeName: "node"},
	}
}

func ledgerOf(ids ...string) corev1.ConfigMap {
	var entries []ledger.Entry
	for _, id := range ids {
		entries = append(entries, ledger.Entry{ResourceID: id})
	}
	text, _ := json.Marshal(entries)
	return corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "podid", Name: "ledger"},
		Data: map[string]string{
			"group":      `{"kind":"vmss","subscriptionID":"s","resourceGroup":"rg","name":"set"}`,
			"identities": string(text),
		},
	}
}

func lease(renewed time.Time, holder string) coordinationv1.Lease {
	renew := metav1.NewMicroTime(renewed)
	return coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "aad-pod-identity-mic"},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &renew, LeaseDurationSeconds: new(int32(15))},
	}
}

func TestPlan(t *testing.T) {
	azure := Options{Azure: true}
	orphans := []string{"delete gone-team-red", "delete job-team-red"}
	for _, test := range []struct {
		name    string
		options Options
		change  func(*State)
		want    []string
	}{
		{"half gone", azure, nil, append(orphans, "detach blue", "detach green", "keep red")},
		{"no cloud config", Options{}, nil, append(orphans, "skip blue", "skip green", "keep red")},
		{
			"everything",
			Options{Azure: true, All: true},
			func(s *State) { s.Leases = []coordinationv1.Lease{lease(time.Time{}, "")} },
			append(orphans, "delete web-team-red", "detach blue", "detach green", "detach red", "delete ledger", "delete aad-pod-identity-mic"),
		},
		{"pod elsewhere", azure, func(s *State) { s.Nodes["node"] = "" }, append(orphans, "detach blue", "detach green", "detach red", "delete ledger")},
		{"binding gone", azure, func(s *State) { s.Bindings = nil }, append(orphans, "detach blue", "detach green", "detach red", "delete ledger")},
		{"other namespace", azure, func(s *State) { s.Bindings[0].Namespace, s.Identities[0].Namespace = "x", "x" }, append(orphans, "detach blue", "detach green", "keep red")},
		{"in advance", azure, func(s *State) {
			s.Identities = append(s.Identities, v1.AzureIdentity{
				ObjectMeta: metav1.ObjectMeta{Name: "blue", Annotations: map[string]string{v1.PreassignAnnotation: "all"}},
				Spec:       v1.AzureIdentitySpec{ResourceID: arm("Blue")},
			})
		}, append(orphans, "detach green", "keep blue", "keep red")},
		{
			"being deleted", azure, func(s *State) { s.Ledgers = nil; s.Assigned[0].DeletionTimestamp = new(metav1.Now()) },
			append(orphans, "delete web-team-red"),
		},
		{"damaged ledger", azure, func(s *State) { s.Ledgers[0].Data["identities"] = "{" }, append(orphans, "skip ledger")},
		{"two pages", azure, func(s *State) {
			first, second := ledgerOf(arm("red"), arm("blue")), ledgerOf(arm("green"))
			first.Name, second.Name = "ledger-0123456789", "ledger-0123456789-2"
			s.Ledgers, s.Bindings = []corev1.ConfigMap{second, first}, nil
		}, append(orphans, "detach blue", "detach green", "detach red", "delete ledger-0123456789")},
		{"one page of two is damaged", azure, func(s *State) {
			first, second := ledgerOf(arm("red"), arm("blue")), ledgerOf()
			first.Name, second.Name = "ledger-0123456789", "ledger-0123456789-2"
			second.Data["identities"] = "{"
			s.Ledgers = []corev1.ConfigMap{first, second}
		}, append(orphans, "skip ledger-0123456789")},
		{"no ledger at all", azure, func(s *State) { s.Ledgers[0].Data = nil }, append(orphans, "skip ledger")},
		{"empty ledger", Options{}, func(s *State) { s.Ledgers[0].Data["identities"] = "[]" }, append(orphans, "delete ledger")},
		{"release gone", azure, func(s *State) {
			s.Assigned, s.Ledgers, s.Deployments = nil, nil, nil
			s.Leases = []coordinationv1.Lease{lease(time.Time{}, "")}
			s.Records = []corev1.ConfigMap{
				{ObjectMeta: metav1.ObjectMeta{Name: "record"}, Data: map[string]string{"type-upgrade-status": "v1.8.17"}},
				{ObjectMeta: metav1.ObjectMeta{Name: "somebody's"}, Data: map[string]string{"x": "y"}},
			}
		}, []string{"delete aad-pod-identity-mic", "delete record"}},
		{"release there", azure, func(s *State) {
			s.Assigned, s.Ledgers, s.Leases = nil, nil, []coordinationv1.Lease{lease(time.Time{}, "")}
		}, nil},
		{"CRD waits", azure, func(s *State) {
			s.Assigned, s.Ledgers = nil, nil
			s.Definitions = []metav1.PartialObjectMetadata{{ObjectMeta: metav1.ObjectMeta{Name: "crd", DeletionTimestamp: new(metav1.Now())}}}
		}, []string{"wait crd"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan := For(cluster(test.change), test.options)
			var got []string
			for _, row := range plan.Rows() {
				name := row.Name
				if name[0] == '/' {
					name = name[len(arm("")):]
				}
				got = append(got, row.Action+" "+name)
				if row.Reason == "" {
					t.Errorf("no reason: %+v", row)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
