package controllers_test

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
	"github.com/podid-io/podid/internal/controllers/events"
	"github.com/podid-io/podid/internal/controllers/identitystatus"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/reason"
)

// TestVerdicts covers how Azure's answers about an identity affect the objects that name it.
func TestVerdicts(t *testing.T) {
	runStories(t, startServer(t), "", stories{
		{"client id of another", clientIDOfAnother},
		{"foreign is verified", foreignIsVerified},
		{"foreign is refused", foreignIsRefused},
		{"the kubelets own", theKubeletsOwn},
	})
}

// respell sets spec.clientID.
func (w *world) respell(id *v1.AzureIdentity, clientID string) {
	w.t.Helper()
	w.patch(id, `{"spec":{"clientID":"`+clientID+`"}}`)
}

func clientIDOfAnother(t *testing.T, w *world) {
	w.cloud.AddIdentities(resourceID("red"), resourceID("alone"))
	id, _ := w.identity("red")
	w.respell(id, "99999999-0000-0000-0000-000000000000")
	right := w.newIdentity("right", "red")
	right.Spec.ClientID = strings.ToUpper(right.Spec.ClientID)
	w.create(right)
	w.binding("right", "right")
	alone, _ := w.identity("alone")
	w.respell(alone, "99999999-0000-0000-0000-000000000000")
	w.start()
	w.pod("good", "right")
	w.pod("bad", "red")
	w.pod("lonely", "alone")
	w.waitState("good", v1.StateAssigned)
	for _, pod := range []string{"bad", "lonely"} {
		w.waitReason(pod, reason.ClientIDMismatch.Name())
	}
	c := w.waitAssignable("red", metav1.ConditionFalse, reason.ClientIDMismatch.Name())
	if !strings.Contains(c.Message, "correct spec.clientID") {
		t.Errorf("message %q has no remedy", c.Message)
	}
	w.waitEvent("AzureIdentity", "red", events.IdentityRefused)
	w.waitHas("red") // identities attached only for a wrong object are detached
	w.respell(id, computetest.ClientID(resourceID("red")))
	w.respell(alone, computetest.ClientID(resourceID("alone")))
	w.waitState("bad", v1.StateAssigned)
	w.waitState("lonely", v1.StateAssigned)
	w.waitAssignable("red", metav1.ConditionTrue, identitystatus.Recovered)
}

// waitReason waits until the pod's only assigned identity has the reason.
func (w *world) waitReason(pod, reason string) {
	w.t.Helper()
	w.eventually("reason "+reason+" of pod "+pod, func() string {
		if list := w.assigned(pod); len(list) != 1 || list[0].Status.Reason != reason || list[0].Status.Status != v1.StateCreated {
			return "is something else"
		}
		return ""
	})
}

// foreignIsVerified: another client's identity is included in an update before it counts as
// present. That happens once for all leaders, and the identity stays when no pod needs it.
func foreignIsVerified(t *testing.T, w *world) {
	w.attached("red")
	w.start()
	pod := w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	w.wantPatches(1, "one that verifies it")
	w.eventually("entry in the ledger", func() string {
		for _, record := range ledger.Records(w.ledgers()) {
			for _, entry := range record.Entries {
				if entry.Foreign {
					return ""
				}
			}
		}
		return "none says foreign"
	})
	w.stop()
	w.start()
	w.pod("q", "red")
	w.waitState("q", v1.StateAssigned)
	w.wantPatches(1, "none of the next leader")
	w.must(w.client.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	w.waitNone("p")
	w.waitHas("red")
}

// foreignIsRefused: an identity that Azure does not let podid assign is given to no pod, even if
// the machines have it.
func foreignIsRefused(t *testing.T, w *world) {
	w.attached("red")
	w.cloud.FailNext(computetest.Refusal(w.group, http.StatusForbidden, "LinkedAuthorizationFailed",
		"the client has no right to perform action on the linked scope(s) '"+resourceID("red")+"'", []string{resourceID("red")}, 0))
	w.start()
	w.pod("p", "red")
	w.waitReason("p", reason.IdentityForbidden.Name())
	w.waitAssignable("red", metav1.ConditionFalse, reason.IdentityForbidden.Name())
	w.waitHas("red")
}

// theKubeletsOwn is refused by default, and allowed with --allow-cluster-identities.
func theKubeletsOwn(t *testing.T, w *world) {
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID("kubelet")}})
	id, _ := w.identity("kubelet")
	w.respell(id, "")
	w.patch(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: w.nodes[0]}},
		`{"metadata":{"labels":{"`+v1.KubeletIdentityLabel+`":"`+computetest.ClientID(resourceID("kubelet"))+`"}}}`)
	w.start()
	w.pod("p", "kubelet")
	w.waitReason("p", reason.ClusterIdentity.Name())
	w.waitAssignable("kubelet", metav1.ConditionFalse, reason.ClusterIdentity.Name())
	w.stop()
	w.config.Attachment.AllowClusterIdentities, w.config.Rules.AllowClusterIdentities = true, true
	w.start()
	w.waitState("p", v1.StateAssigned)
}
