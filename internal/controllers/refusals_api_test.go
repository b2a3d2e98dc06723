package controllers_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
	"github.com/podid-io/podid/internal/controllers/events"
	"github.com/podid-io/podid/internal/controllers/identitystatus"
)

// TestRefusals covers what owners of identities are notified of, and how often.
func TestRefusals(t *testing.T) {
	runStories(t, startServer(t), "", stories{
		{"refused before any pod", refusedBeforePods},
		{"may not be pre-assigned", mayNotPreassign},
		{"no type for a node", noTypeForNodes},
		{"said once", saidOnce},
		{"immutable in the way", immutableInTheWay},
		{"held by another finalizer", heldByAnother},
		{"identity comes last", identityLast},
	})
}

// preassign annotates an identity for pre-assignment.
func (w *world) preassign(id *v1.AzureIdentity) {
	w.t.Helper()
	w.patch(id, fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1.PreassignAnnotation, v1.PreassignAll))
}

func refusedBeforePods(t *testing.T, w *world) {
	id, _ := w.identity("red")
	w.preassign(id)
	w.start()
	c := w.waitAssignable("red", metav1.ConditionFalse, "IdentityRefused")
	if !strings.Contains(c.Message, "az identity show") {
		t.Errorf("message %q has no remedy", c.Message)
	}
	w.waitEvent("AzureIdentity", "red", events.IdentityRefused)
	w.cloud.AddIdentities(resourceID("red"))
	w.touch(id)
	w.waitAssignable("red", metav1.ConditionTrue, identitystatus.Recovered)
	w.waitHas("red")
}

func mayNotPreassign(t *testing.T, w *world) {
	w.cloud.AddIdentities(resourceID("red"))
	id, _ := w.identity("red")
	w.preassign(id)
	w.config.Attachment.MayPreassign = func(string) bool { return false }
	w.start()
	w.waitEvent("AzureIdentity", "red", events.NotPreassigned, "--preassign-namespaces")
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
}

func noTypeForNodes(t *testing.T, w *world) {
	id := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "sp", Annotations: map[string]string{v1.PreassignAnnotation: v1.PreassignAll}},
		Spec: v1.AzureIdentitySpec{
			Type: v1.ServicePrincipal, TenantID: subscription, ClientID: "99999999-0000-0000-0000-000000000000",
		},
	}
	id.Spec.ClientPassword.Name, id.Spec.ClientPassword.Namespace = "s", w.namespace
	w.create(id)
	w.start()
	w.waitEvent("AzureIdentity", "sp", events.NotPreassigned, "type 0")
}

// saidOnce is an identity that Azure refuses repeatedly. Each error message has another tracking
// ID, and also names an identity of another pod.
func saidOnce(t *testing.T, w *world) {
	id, _ := w.identity("red")
	w.identity("other")
	for i := range 3 {
		w.cloud.FailNext(computetest.Refusal(w.group, http.StatusBadRequest, "FailedIdentityOperation", fmt.Sprintf(
			"Resources '%s', '%s' were not found. Tracking ID: %08d-aaaa-bbbb-cccc-dddddddddddd", resourceID("red"), resourceID("other"), i),
			[]string{resourceID("red"), resourceID("other")}, 0))
	}
	w.create(w.newPod("p", "red", w.nodes[0]))
	w.create(w.newPod("o", "other", w.nodes[0]))
	w.start()
	w.waitCondition("p", "False", "IdentityRefused")
	before := w.waitState("p", v1.StateCreated)
	if strings.Contains(before.Status.Message, "other") {
		t.Errorf("names somebody else's: %s", before.Status.Message)
	}
	refusals := w.patches()
	w.touch(id)
	w.eventually("another try", func() string {
		if w.patches() == refusals {
			return "none"
		}
		return ""
	})
	w.pod("later", "red") // gets the same refusal, and later than p would
	w.waitCondition("later", "False", "IdentityRefused")
	if after := w.waitState("p", v1.StateCreated); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("written for the same refusal: %q, then %q", before.Status.Message, after.Status.Message)
	}
}

// immutableInTheWay is an identity that was deleted while pods need it, and that podid must not
// detach. Azure then rejects every update of that scale set.
func immutableInTheWay(t *testing.T, w *world) {
	w.managed("red", "blue")
	w.config.Attachment.Immutable = []string{resourceID("red")}
	w.start()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	w.cloud.RefuseDeleted(true)
	w.cloud.DeleteIdentity(resourceID("red"))
	w.pod("q", "blue")
	w.waitCondition("q", "False", "NodeGroupBlocked")
	if got := w.waitState("q", v1.StateCreated); !strings.Contains(got.Status.Message, "az vmss identity remove") {
		t.Errorf("message %q", got.Status.Message)
	}
	w.cloud.SetGroup(w.group, compute.Identities{}) // by hand
	w.waitState("q", v1.StateAssigned)
}

func heldByAnother(t *testing.T, w *world) {
	w.managed("red")
	lines := w.logged("assigned identity removed")
	w.start()
	pod := w.pod("p", "red")
	held := w.waitState("p", v1.StateAssigned)
	held.Finalizers = append(held.Finalizers, "example.com/hold")
	w.must(w.client.Update(t.Context(), &held))
	w.delete(pod)
	w.eventually("deleted", func() string {
		if list := w.assigned("p"); len(list) != 1 || list[0].DeletionTimestamp.IsZero() {
			return "not yet"
		}
		return ""
	})
	for range 3 {
		w.pod("p", "red") // each is created and deleted under the name in the object
		w.delete(w.newPod("p", "red", w.nodes[0]))
	}
	w.waitEvent("AzureIdentityBinding", "red", events.BindingRemoved)
	w.patch(&held, `{"metadata":{"finalizers":null}}`)
	w.waitNone("p")
	w.stop()
	if created, removed := 1+3, len(lines("")); removed > created {
		t.Errorf("said %d times to be removed, of at most %d", removed, created)
	}
}

// identityLast: one kubectl apply creates the identity after the pod. No Event reports it as
// missing. A pod whose identity is never created gets that Event.
func identityLast(t *testing.T, w *world) {
	w.cloud.AddIdentities(resourceID("late"))
	w.pod("p", "late")
	w.pod("q", "never")
	w.binding("never", "never")
	w.start()
	w.binding("late", "late")
	w.create(w.newIdentity("late", "late"))
	w.waitState("p", v1.StateAssigned)
	w.waitEvent("Pod", "q", events.IdentityRefused, "does not exist")
	var list eventsv1.EventList
	w.must(w.client.List(t.Context(), &list, client.InNamespace(w.namespace)))
	for _, e := range list.Items {
		if e.Regarding.Name == "p" && e.Reason == events.IdentityRefused {
			t.Errorf("told %q", e.Note)
		}
	}
}
