package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/controllers/events"
	"github.com/podid-io/podid/internal/reason"
)

func TestStories(t *testing.T) {
	runStories(t, startServer(t), "", stories{
		{"pod comes and goes", comesAndGoes},
		{"others' identities", othersIdentities},
		{"bad identity", badIdentity},
		{"healed by recreation", healed},
		{"burst", burst},
		{"throttled", throttled},
		{"namespace deleted", namespaceDeleted},
		{"v1.8.17 object", adopted},
		{"not on Azure", notOnAzure},
		{"host network", hostNetwork},
		{"binding comes late", lateBinding},
		{"binding to nothing", bindingToNothing},
		{"scaled in", scaledIn},
		{"group gone", groupGone},
		{"identity moves", identityMoves},
		{"user deletes object", userDeletes},
		{"damaged ledger", damagedLedger},
		{"same names", sameNames},
		{"agent ill", agentIll},
	})
}

func comesAndGoes(t *testing.T, w *world) {
	w.cloud.AddIdentities(resourceID("red"))
	id, binding := w.identity("red")
	updated := w.logged("node group updated")
	w.start()
	pod := w.pod("p", "red")
	got := w.waitState("p", v1.StateAssigned)

	if want := "p-" + w.namespace + "-red"; got.Name != want || got.Namespace != w.namespace {
		t.Errorf("object is %s/%s, want %s/%s", got.Namespace, got.Name, w.namespace, want)
	}
	want := v1.AzureAssignedIdentity{Spec: v1.AzureAssignedIdentitySpec{
		AzureIdentityRef: got.Spec.AzureIdentityRef, AzureBindingRef: got.Spec.AzureBindingRef,
		Pod: "p", PodNamespace: w.namespace, NodeName: w.nodes[0],
	}}
	if diff := cmp.Diff(want.Spec, got.Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if got.Spec.AzureIdentityRef.UID != id.UID || got.Spec.AzureBindingRef.UID != binding.UID {
		t.Errorf("embedded objects are not those of the cluster: %+v", got.Spec)
	}
	labels := map[string]string{v1.NodeNameLabel: w.nodes[0], v1.PodNameLabel: "p", v1.PodNamespaceLabel: w.namespace}
	if diff := cmp.Diff(labels, got.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if len(got.Finalizers) > 0 {
		t.Errorf("finalizers %v, which would hold it where MIC is gone", got.Finalizers)
	}
	w.waitHas("red")
	if len(updated(w.group.String())) == 0 {
		t.Errorf("the log does not name the node group: %q", updated(""))
	}
	w.waitEvent("AzureIdentityBinding", "red", events.BindingApplied)
	w.waitEvent("Pod", "p", events.IdentityAssigned)
	if n := len(w.ledgers()); n != 1 {
		t.Errorf("%d ledgers while attached, want 1", n)
	}

	w.delete(pod)
	w.waitNone("p")
	w.waitHas()
	w.waitNoLedger()
	w.waitEvent("AzureIdentityBinding", "red", events.BindingRemoved)
}

func othersIdentities(_ *testing.T, w *world) {
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID("red"), resourceID("other")}, SystemAssigned: true})
	w.cloud.AddIdentities(resourceID("blue"))
	w.identity("red")
	w.identity("blue")
	w.start()
	red, blue := w.pod("r", "red"), w.pod("b", "blue")
	w.waitState("r", v1.StateAssigned)
	w.waitState("b", v1.StateAssigned)
	w.delete(red)
	w.delete(blue)
	w.waitNone("r")
	w.waitHas("other", "red") // blue, which podid attached, was detached
}

func badIdentity(t *testing.T, w *world) {
	w.managed("good")
	w.identity("bad")
	w.start()
	w.pod("b", "bad")
	w.pod("g", "good")
	w.waitState("g", v1.StateAssigned)
	w.eventually("reason", func() string {
		if got := w.waitState("b", v1.StateCreated); got.Status.Reason != reason.IdentityRefused.Name() {
			return fmt.Sprintf("%+v", got.Status)
		}
		return ""
	})
	if got := w.waitState("b", v1.StateCreated); !strings.Contains(got.Status.Message, "bad") {
		t.Errorf("message does not name the identity: %s", got.Status.Message)
	}
	w.waitEvent("Pod", "b", events.IdentityNotAssigned)
	w.waitEvent("AzureIdentityBinding", "bad", events.BindingApplyError)
	// A second pod with the bad identity gets the refusal at once, without a request to Azure.
	before := w.patches()
	w.pod("b2", "bad")
	w.eventually("reason of the second", func() string {
		if got := w.assigned("b2"); len(got) != 1 || got[0].Status.Reason == "" {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	})
	w.wantPatches(before, "none for an identity in quarantine")
}

func healed(_ *testing.T, w *world) {
	id, _ := w.identity("red")
	w.start()
	w.pod("p", "red")
	w.eventually("reason", func() string {
		if got := w.waitState("p", v1.StateCreated); got.Status.Reason == "" {
			return "none"
		}
		return ""
	})
	w.cloud.AddIdentities(resourceID("red"))
	w.delete(id)
	w.waitNone("p")
	fresh := &v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "red"}, Spec: id.Spec}
	w.create(fresh)
	if got := w.waitState("p", v1.StateAssigned); got.Status.Reason != "" {
		w.t.Errorf("reason left behind: %+v", got.Status)
	}
}

func burst(t *testing.T, w *world) {
	const identities, pods = 5, 100
	w.cloud.SetDuration(300 * time.Millisecond)
	for i := range identities {
		w.managed(fmt.Sprintf("id%d", i))
	}
	w.start()
	for i := range pods {
		w.create(w.newPod(fmt.Sprintf("p%d", i), fmt.Sprintf("id%d", i%identities), w.nodes[i%2]))
	}
	w.eventually("all assigned", func() string {
		var list v1.AzureAssignedIdentityList
		w.must(w.client.List(t.Context(), &list, client.InNamespace(w.namespace)))
		n := 0
		for _, a := range list.Items {
			if a.Status.Status == v1.StateAssigned {
				n++
			}
		}
		if n != pods {
			return fmt.Sprintf("%d of %d", n, pods)
		}
		return ""
	})
	if n := w.patches(); n > 3 {
		t.Errorf("%d updates for a burst, want at most 3", n)
	}
}

func throttled(t *testing.T, w *world) {
	w.managed("red")
	w.start()
	w.cloud.ThrottleNext(time.Second)
	began := time.Now()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	if took := time.Since(began); took < time.Second {
		t.Errorf("assigned after %v, Azure asked for a second's rest", took)
	}
	w.wantPatches(2, "throttled one and the one after the rest")
}

func namespaceDeleted(t *testing.T, w *world) {
	w.config.LedgerNamespace = "default"
	w.managed("red")
	w.start()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	// Azure is gone from here on: removing the finalizers must not depend on it.
	w.cloud.DeleteGroup(w.group)
	w.delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}})
	// Does the work of the namespace controller, which does not run here: everything is deleted in
	// an unfavorable order, the pod last.
	w.must(w.client.DeleteAllOf(t.Context(), &v1.AzureAssignedIdentity{}, client.InNamespace(w.namespace)))
	w.waitNone("p")
	w.must(w.client.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(w.namespace), client.GracePeriodSeconds(0)))
	w.waitNone("p")
}

func adopted(t *testing.T, w *world) {
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID("red")}})
	id, binding := w.identity("red")
	w.pod("p", "red")
	old := &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.namespace, Name: "p-" + w.namespace + "-red",
			Labels: map[string]string{v1.NodeNameLabel: w.nodes[0]}, Finalizers: []string{v1.Finalizer},
		},
		Spec: v1.AzureAssignedIdentitySpec{
			AzureIdentityRef: &v1.AzureIdentityCopy{
				APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentity", ObjectMeta: id.ObjectMeta, Spec: id.Spec,
			},
			AzureBindingRef: &v1.AzureIdentityBindingCopy{
				APIVersion: v1.GroupVersion.String(), Kind: "AzureIdentityBinding", ObjectMeta: binding.ObjectMeta, Spec: binding.Spec,
			},
			Pod: "p", PodNamespace: w.namespace, NodeName: w.nodes[0],
		},
		Status: v1.AzureAssignedIdentityStatus{Status: v1.StateAssigned, AvailableReplicas: 1},
	}
	w.create(old)
	w.start()
	w.eventually("labels added", func() string {
		if got := w.waitState("p", v1.StateAssigned); got.Labels[v1.PodNameLabel] != "p" {
			return fmt.Sprintf("%v", got.Labels)
		}
		return ""
	})
	if got := w.waitState("p", v1.StateAssigned); got.UID != old.UID {
		t.Error("the object was replaced, not kept")
	}
	w.wantPatches(0, "of what is there")
}

func notOnAzure(t *testing.T, w *world) {
	w.managed("red")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-bare"}, Spec: corev1.NodeSpec{}}
	w.nodes = append(w.nodes, node.Name)
	w.create(node)
	w.start()
	w.create(w.newPod("p", "red", node.Name))
	got := w.waitState("p", v1.StateCreated)
	if got.Status.Reason != reason.NodeNotOnAzure.Name() || !strings.Contains(got.Status.Message, "node-bare") {
		t.Errorf("status %+v", got.Status)
	}
	w.waitEvent("Pod", "p", events.IdentityNotAssigned)
	node.Spec.ProviderID = w.providerID(7)
	w.must(w.client.Update(t.Context(), node))
	if got := w.waitState("p", v1.StateAssigned); got.Status.Reason != "" {
		t.Errorf("reason left behind: %+v", got.Status)
	}
}

func hostNetwork(t *testing.T, w *world) {
	w.identity("red")
	w.start()
	pod := w.newPod("p", "red", w.nodes[0])
	pod.Spec.HostNetwork = true
	w.create(pod)
	w.waitEvent("Pod", "p", events.IdentityRefused, "hostNetwork")
	w.waitNone("p")
}

func lateBinding(_ *testing.T, w *world) {
	w.cloud.AddIdentities(resourceID("red"))
	w.start()
	w.pod("p", "red")
	w.identity("red")
	w.waitState("p", v1.StateAssigned)
	// Another label selects another identity.
	w.managed("blue")
	w.patch(w.newPod("p", "red", w.nodes[0]), `{"metadata":{"labels":{"aadpodidbinding":"blue"}}}`)
	w.waitHas("blue")
	if got := w.waitState("p", v1.StateAssigned); got.Spec.AzureIdentityRef.Name != "blue" {
		w.t.Errorf("assigned identity is for %s", got.Spec.AzureIdentityRef.Name)
	}
}

func bindingToNothing(t *testing.T, w *world) {
	w.start()
	w.binding("b", "missing")
	w.waitEvent("AzureIdentityBinding", "b", events.BindingRefused, "missing")
}
