package controllers_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/testenv"
)

// TestUninstall: parts of an installation are deleted in unfavorable orders, with objects of
// v1.8.17 present, and no object is stuck on a finalizer.
func TestUninstall(t *testing.T) {
	runStories(t, startServer(t), "un ", stories{
		{"namespace first", namespaceFirst},
		{"mic first", micFirst},
		{"node and group first", nodeAndGroupFirst},
		{"definitions first", definitionsFirst}, // last, because the API server loses podid's kinds for a while
	})
}

// namespaceFirst deletes a whole namespace while MIC runs, or before it starts. Its objects have
// the old MIC's finalizer, and pods still exist.
func namespaceFirst(t *testing.T, w *world) {
	w.config.LedgerNamespace = corev1.NamespaceDefault
	w.identity("red")
	w.pod("p", "red")
	w.pod("q", "red")
	w.old(w.namespace, "p", "red", v1.StateAssigned)
	w.old(w.namespace, "q", "red", v1.StateCreated)
	w.delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}})
	w.must(w.client.DeleteAllOf(t.Context(), &v1.AzureAssignedIdentity{}, client.InNamespace(w.namespace)))
	w.start()
	w.waitNone("p")
	w.waitNone("q")
	w.must(w.client.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(w.namespace), client.GracePeriodSeconds(0)))
	w.waitNone("p")
}

// micFirst: once adopted, an object of v1.8.17 can be deleted without any MIC.
func micFirst(t *testing.T, w *world) {
	w.attached("red")
	w.pod("p", "red")
	w.pod("fresh", "red")
	old := w.old(w.namespace, "p", "red", v1.StateAssigned)
	w.start()
	w.adopted("p", old)
	w.waitState("fresh", v1.StateAssigned)
	w.stop()
	w.must(w.client.DeleteAllOf(t.Context(), &v1.AzureAssignedIdentity{}, client.InNamespace(w.namespace)))
	if n := len(w.assigned("p")) + len(w.assigned("fresh")); n > 0 {
		t.Errorf("%d objects are stuck", n)
	}
}

// nodeAndGroupFirst: the scale set and its nodes were deleted, and the pods were deleted by force.
func nodeAndGroupFirst(t *testing.T, w *world) {
	w.identity("red")
	pod := w.pod("p", "red")
	w.old(w.namespace, "p", "red", v1.StateAssigned)
	w.old(w.namespace, "gone", "red", v1.StateUnassigned)
	w.cloud.DeleteGroup(w.group)
	w.start()
	w.waitNone("gone")
	for _, node := range w.nodes {
		w.delete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
	}
	w.must(w.client.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	w.waitNone("p")
}

// definitionsFirst deletes the CRDs while MIC runs and pods use identities. MIC survives, and
// resumes when they are restored.
func definitionsFirst(t *testing.T, w *world) {
	w.attached("red")
	w.pod("p", "red")
	old := w.old(w.namespace, "p", "red", v1.StateAssigned)
	w.start()
	w.adopted("p", old)
	w.must(envtest.UninstallCRDs(w.kube, envtest.CRDInstallOptions{Paths: []string{testenv.CRDs()}, ErrorIfPathMissing: true}))
	w.eventually("kinds gone", func() string {
		for _, resource := range []string{"azureassignedidentities", "azureidentities", "azureidentitybindings", "azurepodidentityexceptions"} {
			crd := &metav1.PartialObjectMetadata{}
			crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
			key := client.ObjectKey{Name: resource + "." + v1.GroupVersion.Group}
			if err := w.client.Get(t.Context(), key, crd); !apierrors.IsNotFound(err) {
				return fmt.Sprintf("%s: %v, finalizers %v", resource, err, crd.Finalizers)
			}
		}
		return ""
	})
	w.waitHas("red") // what was on Azure before MIC started
	testenv.InstallCRDs(t, w.kube)
	w.eventually("kinds are back", func() string {
		var list v1.AzureAssignedIdentityList
		if err := w.client.List(context.WithoutCancel(t.Context()), &list); err != nil {
			return err.Error()
		}
		return ""
	})
	w.identity("red")
	w.waitState("p", v1.StateAssigned)
	w.waitHas("red")
}
