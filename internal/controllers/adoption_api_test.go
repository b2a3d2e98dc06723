package controllers_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
	"github.com/podid-io/podid/internal/controllers/upgrade"
	"github.com/podid-io/podid/internal/identity"
)

// TestAdoption covers the first minutes of a cluster that is migrated from v1.8.17. Its objects are
// kept, and so are the identities and the pods' tokens.
//
// v1.8.17 writes objects as follows:
//
//   - The name is <pod>-<pod's namespace>-<identity>. The namespace is the identity's when that is
//     namespaced, and otherwise default.
//   - The labels are nodename, podname and podnamespace, and there is one finalizer.
//   - spec and status have every field, including empty ones.
//   - The state is Created, Assigned or Unassigned. Versions without states write none.
//
// Its NMI watches the objects with the label nodename of its node. It reads spec.pod,
// spec.podNamespace, status.status, and spec.azureIdentityRef for what to request from Azure.
func TestAdoption(t *testing.T) {
	kube := startServer(t)
	for _, state := range []string{v1.StateCreated, v1.StateAssigned, v1.StateUnassigned, ""} {
		t.Run("state "+state, func(t *testing.T) { adoptState(t, newWorld(t, kube, slug("state "+state+"x")), state) })
	}
	runStories(t, kube, "adopt ", stories{
		{"across namespaces", adoptAcross},
		{"becomes namespaced", adoptMoves},
		{"being deleted", adoptDeleting},
		{"type upgrade", upgradeRecorded},
		{"old NMI reads", oldNMIReads},
	})
}

// old creates an assigned identity as v1.8.17 does.
func (w *world) old(namespace, pod, name, state string) *unstructured.Unstructured {
	w.t.Helper()
	uids := map[string]string{}
	for kind, o := range map[string]client.Object{"AzureIdentity": &v1.AzureIdentity{}, "AzureIdentityBinding": &v1.AzureIdentityBinding{}} {
		w.must(w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.namespace, Name: name}, o))
		uids[kind] = string(o.GetUID())
	}
	nothing := map[string]any{"creationTimestamp": nil}
	embed := func(kind string, spec map[string]any) map[string]any {
		spec["metadata"] = nothing
		return map[string]any{
			"apiVersion": v1.GroupVersion.String(), "kind": kind,
			"metadata": map[string]any{"name": name, "namespace": w.namespace, "uid": uids[kind], "resourceVersion": "1", "creationTimestamp": nil},
			"spec":     spec, "status": map[string]any{"metadata": nothing, "availableReplicas": int64(0)},
		}
	}
	status := map[string]any{"metadata": nothing, "status": state, "availableReplicas": int64(1)}
	if state == "" {
		delete(status, "status")
	}
	o := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{
			"metadata": nothing,
			"azureIdentityRef": embed("AzureIdentity", map[string]any{
				"type": int64(0), "resourceID": resourceID(name), "clientID": computetest.ClientID(resourceID(name)),
				"clientPassword": map[string]any{}, "tenantID": "", "auxiliaryTenantIDs": nil, "adResourceID": "", "adEndpoint": "", "replicas": nil,
			}),
			"azureBindingRef": embed("AzureIdentityBinding", map[string]any{"azureIdentity": name, "selector": name, "weight": int64(0)}),
			"pod":             pod, "podNamespace": w.namespace, "nodename": w.nodes[0], "replicas": nil,
		},
		"status": status,
	}}
	o.SetGroupVersionKind(v1.GroupVersion.WithKind("AzureAssignedIdentity"))
	o.SetNamespace(namespace)
	o.SetName(pod + "-" + w.namespace + "-" + name)
	o.SetLabels(map[string]string{"nodename": w.nodes[0], "podname": pod, "podnamespace": w.namespace})
	o.SetFinalizers([]string{"azureassignedidentity.finalizers.aadpodidentity.k8s.io"})
	w.create(o)
	return o
}

// adopted waits until the pod's only object is Assigned and has lost the old finalizer. It then
// checks that it is still the old object.
func (w *world) adopted(pod string, old *unstructured.Unstructured) {
	w.t.Helper()
	w.eventually("finalizer off", func() string {
		got := w.waitState(pod, v1.StateAssigned)
		if len(got.Finalizers) > 0 {
			return fmt.Sprintf("finalizers %v", got.Finalizers)
		}
		return ""
	})
	if got := w.waitState(pod, v1.StateAssigned); got.UID != old.GetUID() || got.Name != old.GetName() {
		w.t.Errorf("object %s/%s was made anew, as %s", old.GetNamespace(), old.GetName(), got.Name)
	}
}

func adoptState(t *testing.T, w *world, state string) {
	w.cloud.SetGroup(w.group, compute.Identities{UserAssigned: []string{resourceID("other"), resourceID("red")}})
	w.identity("red")
	pod := w.pod("p", "red")
	old := w.old(w.namespace, "p", "red", state)
	events := w.watch()
	w.start()
	w.adopted("p", old)
	want := 1 // Azure must confirm that podid may assign what it did not attach
	if state == v1.StateAssigned {
		want = 0
	}
	w.wantPatches(want, "from the state "+state)
	// Either the old MIC or an administrator attached it. Since that is unknown, it stays.
	w.delete(pod)
	w.waitNone("p")
	w.end()
	if have := w.has(); !slices.Equal(have, []string{"other", "red"}) {
		t.Errorf("on Azure is %v", have)
	}
	states := []string{}
	for event := range events.ResultChan() {
		if event.Type == watch.Deleted {
			break
		}
		got, ok := event.Object.(*v1.AzureAssignedIdentity)
		if !ok {
			t.Fatalf("event %+v", event)
		}
		states = append(states, got.Status.Status)
	}
	// The object of an identity that is on the node must never leave Assigned.
	if slices.Contains(states, v1.StateCreated) && state == v1.StateAssigned {
		t.Errorf("states on the way: %v", states)
	}
}

// adoptAcross covers forceNamespaced=false, the default of v1.8.17.
func adoptAcross(t *testing.T, w *world) {
	w.config.Rules = identity.Rules{}
	w.attached("red")
	w.pod("p", "red")
	old := w.old(corev1.NamespaceDefault, "p", "red", v1.StateAssigned)
	w.start()
	w.adopted("p", old)
	w.wantPatches(0, "of what is there")
}

// adoptMoves covers the change from a v1.8.17 that was not namespaced to podid's default. The
// object moves to the identity's namespace, and one of the two always exists.
func adoptMoves(t *testing.T, w *world) {
	w.attached("red")
	w.pod("p", "red")
	old := w.old(corev1.NamespaceDefault, "p", "red", v1.StateAssigned)
	all, err := w.watching().Watch(t.Context(), &v1.AzureAssignedIdentityList{},
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: old.GetResourceVersion()}})
	w.must(err)
	defer all.Stop()
	w.start()
	w.eventually("moved", func() string {
		list := w.assigned("p")
		if len(list) != 1 || list[0].Namespace != w.namespace || list[0].Status.Status != v1.StateAssigned {
			return fmt.Sprintf("%d objects", len(list))
		}
		return ""
	})
	there := map[string]bool{corev1.NamespaceDefault: true}
	for event := range all.ResultChan() {
		got, ok := event.Object.(*v1.AzureAssignedIdentity)
		if !ok || got.Spec.Pod != "p" || got.Spec.PodNamespace != w.namespace {
			continue
		}
		there[got.Namespace] = event.Type != watch.Deleted && got.Status.Status == v1.StateAssigned
		if !there[corev1.NamespaceDefault] && !there[w.namespace] {
			t.Fatal("there was a moment without an object for the pod")
		}
		if event.Type == watch.Deleted {
			break
		}
	}
	w.wantPatches(0, "of what is there")
}

// adoptDeleting covers an old MIC that was killed while it removed an object whose pod was
// recreated, as by a StatefulSet. The object is deleted and created again.
func adoptDeleting(_ *testing.T, w *world) {
	w.attached("red")
	w.pod("p", "red")
	old := w.old(w.namespace, "p", "red", v1.StateUnassigned)
	w.delete(old)
	w.start()
	w.eventually("a new object", func() string {
		if list := w.assigned("p"); len(list) != 1 || list[0].UID == old.GetUID() || list[0].Status.Status != v1.StateAssigned {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
	w.waitHas("red")
}

// upgradeRecorded: a MIC that starts to lead looks for objects older than v1.6 and records that it
// has, as v1.8.17 does.
func upgradeRecorded(t *testing.T, w *world) {
	w.config.Upgrade = upgrade.Settings{
		Enabled: true, Namespace: w.namespace, ConfigMap: "aad-pod-identity-config", Key: "type-upgrade-status", Version: "v9",
	}
	w.start()
	w.eventually("recorded", func() string {
		var cm corev1.ConfigMap
		err := w.client.Get(t.Context(), client.ObjectKey{Namespace: w.namespace, Name: "aad-pod-identity-config"}, &cm)
		if err != nil || cm.Data["type-upgrade-status"] != "v9" {
			return fmt.Sprintf("%v %v", cm.Data, err)
		}
		return ""
	})
}

// oldNMIReads: during the rollout of the DaemonSet, v1.8.17's NMI can use what podid writes.
func oldNMIReads(t *testing.T, w *world) {
	w.managed("red")
	w.start()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1.GroupVersion.WithKind("AzureAssignedIdentityList"))
	w.must(w.client.List(t.Context(), list, client.MatchingLabels{"nodename": w.nodes[0]}))
	if len(list.Items) != 1 {
		t.Fatalf("%d objects with the node's label", len(list.Items))
	}
	o := list.Items[0].Object
	got := map[string]any{}
	for name, path := range map[string][]string{
		"pod": {"spec", "pod"}, "podNamespace": {"spec", "podNamespace"}, "node": {"spec", "nodename"}, "status": {"status", "status"},
		"type": {"spec", "azureIdentityRef", "spec", "type"}, "clientID": {"spec", "azureIdentityRef", "spec", "clientID"},
		"resourceID": {"spec", "azureIdentityRef", "spec", "resourceID"}, "identity": {"spec", "azureIdentityRef", "metadata", "name"},
		"namespace": {"spec", "azureIdentityRef", "metadata", "namespace"}, "binding": {"spec", "azureBindingRef", "metadata", "name"},
	} {
		got[name], _, _ = unstructured.NestedFieldNoCopy(o, path...)
	}
	want := map[string]any{
		"pod": "p", "podNamespace": w.namespace, "node": w.nodes[0], "status": "Assigned", "type": int64(0),
		"clientID": computetest.ClientID(resourceID("red")), "resourceID": resourceID("red"), "identity": "red",
		"namespace": w.namespace, "binding": "red",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if name := list.Items[0].GetName(); name != "p-"+w.namespace+"-red" {
		t.Errorf("it is called %s", name)
	}
}
