package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/events"
	"github.com/podid-io/podid/internal/controllers/identitystatus"
	"github.com/podid-io/podid/internal/controllers/policy"
	"github.com/podid-io/podid/internal/controllers/readiness"
)

// TestConditions covers the conditions of pods and identities.
func TestConditions(t *testing.T) {
	runStories(t, startServer(t), "", stories{
		{"gate", gate},
		{"gate without binding", gateWithoutBinding},
		{"gate of a refused identity", gateRefused},
		{"refused without a gate", refusedUngated},
		{"healthy without a gate", healthyUngated},
		{"label removed", labelRemoved},
		{"new pod of the same name", samePodName},
		{"identity refused and mended", identityRefused},
		{"identity refused, pods gone", identityForgotten},
		{"identity refused, pods elsewhere", identityElsewhere},
		{"older CRD", olderCRD}, // last, because it changes the server
	})
}

// gated creates a pod with the readiness gate.
func (w *world) gated(name, selector string) *corev1.Pod {
	w.t.Helper()
	pod := w.newPod(name, selector, w.nodes[0])
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/other"}, {ConditionType: v1.PodConditionAssigned}}
	w.create(pod)
	return pod
}

// condition returns a condition of a pod from the API server, or nil.
func (w *world) condition(pod string, kind corev1.PodConditionType) *corev1.PodCondition {
	w.t.Helper()
	var got corev1.Pod
	w.must(w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.namespace, Name: pod}, &got))
	for _, c := range got.Status.Conditions {
		if c.Type == kind {
			return &c
		}
	}
	return nil
}

// waitCondition waits until podid's condition has this status and reason.
func (w *world) waitCondition(pod string, status corev1.ConditionStatus, reason string) corev1.PodCondition {
	w.t.Helper()
	var found corev1.PodCondition
	w.eventually(fmt.Sprintf("condition %s %s of pod %s", status, reason, pod), func() string {
		c := w.condition(pod, v1.PodConditionAssigned)
		if c == nil || c.Status != status || c.Reason != reason {
			return fmt.Sprintf("is %+v", c)
		}
		found = *c
		return ""
	})
	return found
}

// waitIdentity is waitCondition for a condition of an AzureIdentity.
func (w *world) waitIdentity(name, kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
	w.t.Helper()
	var found metav1.Condition
	w.eventually(fmt.Sprintf("condition %s %s %s of identity %s", kind, status, reason, name), func() string {
		var id v1.AzureIdentity
		w.must(w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.namespace, Name: name}, &id))
		c := meta.FindStatusCondition(id.Status.Conditions, kind)
		if c == nil || c.Status != status || c.Reason != reason {
			return fmt.Sprintf("is %+v", c)
		}
		found = *c
		return ""
	})
	return found
}

func (w *world) waitAssignable(name string, status metav1.ConditionStatus, reason string) metav1.Condition {
	w.t.Helper()
	return w.waitIdentity(name, v1.ConditionAssignable, status, reason)
}

// patchStatus patches a pod's status like a kubelet.
func (w *world) patchStatus(pod, status string) {
	w.t.Helper()
	w.must(w.client.Status().Patch(w.t.Context(), w.newPod(pod, "", ""), client.RawPatch(types.StrategicMergePatchType, []byte(`{"status":`+status+`}`))))
}

func gate(t *testing.T, w *world) {
	w.cloud.AddIdentities(resourceID("red"))
	w.cloud.SetDuration(4 * time.Second) // longer than a pod may lack the condition
	_, binding := w.identity("red")
	w.start()
	w.gated("p", "red")
	w.patchStatus("p", `{"phase":"Running","conditions":[{"type":"Ready","status":"False","reason":"ReadinessGatesNotReady"}]}`)
	first := w.waitCondition("p", corev1.ConditionFalse, readiness.WaitingForIdentity)
	if !strings.Contains(first.Message, w.namespace+"/red") || !strings.Contains(first.Message, w.nodes[0]) {
		t.Errorf("message %q names neither identity nor node", first.Message)
	}
	last := w.waitCondition("p", corev1.ConditionTrue, readiness.Assigned)
	if !first.LastTransitionTime.Before(&last.LastTransitionTime) {
		t.Errorf("False since %v, True since %v", first.LastTransitionTime, last.LastTransitionTime)
	}
	if ready := w.condition("p", corev1.PodReady); ready == nil || ready.Reason != "ReadinessGatesNotReady" {
		t.Errorf("the kubelet's condition is %+v", ready)
	}
	w.delete(binding)
	w.waitCondition("p", corev1.ConditionFalse, "NoBinding")
}

func gateWithoutBinding(t *testing.T, w *world) {
	w.cloud.AddIdentities(resourceID("red"))
	w.start()
	w.gated("p", "red")
	if c := w.waitCondition("p", corev1.ConditionFalse, "NoBinding"); !strings.Contains(c.Message, `"red"`) {
		t.Errorf("message %q does not name the selector", c.Message)
	}
	w.binding("red", "red")
	w.waitCondition("p", corev1.ConditionFalse, "IdentityMissing")
	w.create(&v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "red"}, Spec: v1.AzureIdentitySpec{ResourceID: resourceID("red")},
	})
	w.waitCondition("p", corev1.ConditionTrue, readiness.Assigned)
}

func gateRefused(_ *testing.T, w *world) {
	id, _ := w.identity("red")
	w.start()
	w.gated("p", "red")
	w.waitCondition("p", corev1.ConditionFalse, "IdentityRefused")
	w.cloud.AddIdentities(resourceID("red"))
	w.touch(id)
	w.waitCondition("p", corev1.ConditionTrue, readiness.Assigned)
}

// touch changes an identity's annotations, as an owner would after a fix.
func (w *world) touch(id *v1.AzureIdentity) {
	w.t.Helper()
	w.patch(id, `{"metadata":{"annotations":{"example.com/mended":"yes"}}}`)
}

func refusedUngated(t *testing.T, w *world) {
	id, _ := w.identity("red")
	w.start()
	w.pod("p", "red")
	if c := w.waitCondition("p", corev1.ConditionFalse, "IdentityRefused"); !strings.Contains(c.Message, w.namespace+"/red") {
		t.Errorf("message %q does not name the identity", c.Message)
	}
	w.cloud.AddIdentities(resourceID("red"))
	w.touch(id)
	w.waitCondition("p", corev1.ConditionTrue, readiness.Assigned)
}

func healthyUngated(t *testing.T, w *world) {
	w.managed("red")
	w.identity("bad")
	w.start()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	w.pod("q", "bad")
	w.waitCondition("q", corev1.ConditionFalse, "IdentityRefused") // later than anything about p
	if c := w.condition("p", v1.PodConditionAssigned); c != nil {
		t.Errorf("condition %+v", c)
	}
}

// labelRemoved removes the label, so that MIC's cache loses the pods.
func labelRemoved(t *testing.T, w *world) {
	w.managed("red")
	w.identity("bad")
	w.start()
	w.gated("p", "red")
	w.pod("q", "bad")
	w.waitCondition("p", corev1.ConditionTrue, readiness.Assigned)
	w.waitCondition("q", corev1.ConditionFalse, "IdentityRefused")
	for _, pod := range []string{"p", "q"} {
		w.patch(w.newPod(pod, "", ""), `{"metadata":{"labels":null}}`)
	}
	w.waitCondition("p", corev1.ConditionFalse, "NoLabel")
	w.waitCondition("q", corev1.ConditionTrue, readiness.NoIdentity)
}

// samePodName recreates a pod while the condition of its predecessor is being written.
func samePodName(t *testing.T, w *world) {
	old := w.newPod("p", "red", w.nodes[0])
	old.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: v1.PodConditionAssigned}}
	w.create(w.newPod("p", "red", w.nodes[0]))
	old.UID = "00000000-0000-0000-0000-000000000000"
	// The cache still returns the old pod.
	cached := interceptor.NewClient(w.watching(), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
			if pod, ok := o.(*corev1.Pod); ok {
				old.DeepCopyInto(pod)
				return nil
			}
			return c.Get(ctx, key, o)
		},
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return nil },
	})
	r := readiness.NewController(cached, w.client, policy.Fixed(w.config.Rules))
	_, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(old)})
	w.must(err)
	if c := w.condition("p", v1.PodConditionAssigned); c != nil {
		t.Errorf("condition %+v", c)
	}
	// Without the UID the condition is written, which proves that the UID prevented it.
	old.UID = ""
	_, err = r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(old)})
	w.must(err)
	if c := w.condition("p", v1.PodConditionAssigned); c == nil {
		t.Error("no condition without a UID either")
	}
}

// watching returns a client of the type that interceptors require.
func (w *world) watching() client.WithWatch {
	w.t.Helper()
	c, err := client.NewWithWatch(w.kube, client.Options{Scheme: w.client.Scheme()})
	w.must(err)
	return c
}

func identityRefused(t *testing.T, w *world) {
	id, _ := w.identity("red")
	id.Status.Conditions = []metav1.Condition{{Type: "Others", Status: metav1.ConditionTrue, Reason: "R", LastTransitionTime: metav1.Now()}}
	w.must(w.client.Status().Update(t.Context(), id))
	w.start()
	w.pod("p", "red")
	c := w.waitAssignable("red", metav1.ConditionFalse, "IdentityRefused")
	if c.ObservedGeneration != id.Generation || !strings.Contains(c.Message, "red") {
		t.Errorf("condition %+v of generation %d", c, id.Generation)
	}
	w.waitEvent("AzureIdentity", "red", events.IdentityRefused)
	w.waitEvent("AzureAssignedIdentity", w.waitState("p", v1.StateCreated).Name, events.IdentityNotAssigned)
	// The status write must not count as a fix of the identity.
	before := w.patches()
	w.pod("p2", "red")
	w.waitCondition("p2", corev1.ConditionFalse, "IdentityRefused")
	w.wantPatches(before, "none for an identity in quarantine")
	w.cloud.AddIdentities(resourceID("red"))
	w.touch(id)
	w.waitAssignable("red", metav1.ConditionTrue, identitystatus.Recovered)
	w.must(w.client.Get(t.Context(), client.ObjectKeyFromObject(id), id))
	if meta.FindStatusCondition(id.Status.Conditions, "Others") == nil {
		t.Errorf("others' conditions are gone: %+v", id.Status.Conditions)
	}
}

func identityForgotten(_ *testing.T, w *world) {
	w.identity("red")
	w.start()
	pod := w.pod("p", "red")
	w.waitAssignable("red", metav1.ConditionFalse, "IdentityRefused")
	w.delete(pod)
	w.waitAssignable("red", metav1.ConditionUnknown, identitystatus.NotNeeded)
}

// identityElsewhere: the remaining pods are on a node outside Azure, so that MIC will never ask
// Azure about the identity again.
func identityElsewhere(_ *testing.T, w *world) {
	id, _ := w.identity("red")
	w.fleetNode("laptop", "kind://docker/kind/kind-worker")
	w.start()
	pod := w.pod("p", "red")
	w.create(w.newPod("q", "red", "laptop"))
	w.waitAssignable("red", metav1.ConditionFalse, "IdentityRefused")
	w.stop() // the next MIC has to find the changes below
	w.delete(pod)
	w.touch(id)
	w.start()
	w.waitAssignable("red", metav1.ConditionUnknown, identitystatus.NotNeeded)
}

// olderCRD installs the AzureIdentity CRD of a release without the status subresource.
func olderCRD(t *testing.T, w *world) {
	const hint, complaint = "apply those of this release", "write condition"
	lines := w.logged(hint, complaint)
	crd := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "azureidentities.aadpodidentity.k8s.io"},
	}}
	w.must(w.client.Patch(t.Context(), crd, client.RawPatch(types.JSONPatchType, []byte(`[{"op":"remove","path":"/spec/versions/0/subresources"}]`))))
	id, _ := w.identity("red")
	w.identity("blue")
	w.eventually("no subresource", func() string {
		err := w.client.Status().Patch(t.Context(), id, client.RawPatch(types.MergePatchType, []byte(`{"status":{}}`)))
		if !apierrors.IsNotFound(err) {
			return fmt.Sprintf("still there: %v", err)
		}
		return ""
	})
	w.start()
	w.pod("p", "red")
	w.pod("q", "blue")
	w.waitEvent("AzureIdentity", "red", events.IdentityRefused)
	w.waitEvent("AzureIdentity", "blue", events.IdentityRefused)
	w.eventually("hint", func() string {
		return map[bool]string{true: "none"}[len(lines(hint)) == 0]
	})
	w.stop()
	if hints, complaints := lines(hint), lines(complaint); len(hints) != 1 || len(complaints) > 0 {
		t.Errorf("%d hints, complaints %v", len(hints), complaints)
	}
}
