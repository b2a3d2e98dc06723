package controllers_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute/computetest"
)

// Tests of node groups and objects that change while MIC runs.

func scaledIn(t *testing.T, w *world) {
	w.managed("red", "blue")
	w.start()
	w.create(w.newPod("p0", "red", w.nodes[0]))
	w.create(w.newPod("p1", "blue", w.nodes[1]))
	w.waitState("p0", v1.StateAssigned)
	w.waitState("p1", v1.StateAssigned)
	w.must(w.client.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: w.nodes[1]}}))
	w.waitNone("p1")
	w.waitHas("red")
	w.waitState("p0", v1.StateAssigned)
}

func groupGone(t *testing.T, w *world) {
	w.managed("red")
	w.start()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	w.cloud.DeleteGroup(w.group)
	for _, node := range w.nodes {
		w.must(w.client.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}))
	}
	w.waitNone("p")
	w.waitNoLedger()
}

func identityMoves(t *testing.T, w *world) {
	w.cloud.AddIdentities(resourceID("red"), resourceID("blue"))
	id, _ := w.identity("red")
	w.start()
	w.pod("p", "red")
	uid := w.waitState("p", v1.StateAssigned).UID
	id.Spec.ResourceID, id.Spec.ClientID = resourceID("blue"), computetest.ClientID(resourceID("blue"))
	w.must(w.client.Update(t.Context(), id))
	w.waitHas("blue")
	got := w.waitState("p", v1.StateAssigned)
	if got.UID != uid || got.Spec.AzureIdentityRef.Spec.ResourceID != resourceID("blue") {
		t.Errorf("object %s has %s", got.UID, got.Spec.AzureIdentityRef.Spec.ResourceID)
	}
}

func userDeletes(t *testing.T, w *world) {
	w.config.Attachment.Grace = waitLimit // the gap between the objects must not count as the pod's end
	w.managed("red")
	w.start()
	w.pod("p", "red")
	first := w.waitState("p", v1.StateAssigned)
	w.delete(&first)
	w.eventually("a new object", func() string {
		if got := w.assigned("p"); len(got) != 1 || got[0].UID == first.UID || got[0].Status.Status != v1.StateAssigned {
			return fmt.Sprintf("%d objects", len(got))
		}
		return ""
	})
	w.wantPatches(1, "1")
}

func damagedLedger(t *testing.T, w *world) {
	w.managed("red")
	w.start()
	pod := w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	w.stop()
	w.delete(pod)
	ledger := w.ledgers()[0]
	ledger.Data["identities"] = "["
	w.must(w.client.Update(t.Context(), &ledger))

	w.managed("blue")
	w.pod("q", "blue")
	w.start()
	w.waitState("q", v1.StateAssigned)
	w.waitNone("p")
	w.waitHas("blue", "red") // red can no longer be distinguished from another client's identity
}

func sameNames(t *testing.T, w *world) {
	w.config.Rules.ForceNamespaced = false
	w.cloud.AddIdentities(resourceID("red"), resourceID("red2"))
	w.identity("red")
	other := w.namespace + "-other"
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other}})
	id := &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: other, Name: "red"}, Spec: v1.AzureIdentitySpec{ResourceID: resourceID("red2")},
	}
	w.create(id)
	binding := &v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: other, Name: "red"}, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: "red", Selector: "red"},
	}
	w.create(binding)
	t.Cleanup(func() {
		w.must(w.client.Delete(context.Background(), id))
		w.must(w.client.Delete(context.Background(), binding))
	})
	w.start()
	w.pod("p", "red")
	w.eventually("two assigned", func() string {
		got := w.assigned("p")
		if len(got) != 2 || got[0].Name == got[1].Name || got[0].Namespace != "default" || got[1].Namespace != "default" ||
			got[0].Status.Status != v1.StateAssigned || got[1].Status.Status != v1.StateAssigned {
			return fmt.Sprintf("%d objects", len(got))
		}
		return ""
	})
	w.waitHas("red", "red2")
}
