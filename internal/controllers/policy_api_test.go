package controllers_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/controllers/events"
	"github.com/podid-io/podid/internal/testenv"
)

// TestPolicy covers policies, with which a cluster's owner restricts who may use which identity.
func TestPolicy(t *testing.T) {
	kube := startServer(t)
	for _, story := range (stories{
		{"changes count for running pods", policyChanges},
		{"namespaces by label", policySelects},
		{"no CRD", withoutPolicyCRD},
	}) {
		t.Run(story.name, func(t *testing.T) {
			w := newWorld(t, kube, slug(story.name))
			t.Cleanup(func() { _ = client.IgnoreNotFound(w.client.Delete(t.Context(), policyNamed(v1.PolicyName))) })
			story.run(t, w)
		})
	}
}

func policyNamed(name string) *v1.AzureIdentityPolicy {
	return &v1.AzureIdentityPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// policy creates or replaces the policy.
func (w *world) policy(mode v1.PolicyMode, rules ...v1.PolicyRule) {
	w.t.Helper()
	object := policyNamed(v1.PolicyName)
	err := w.client.Get(w.t.Context(), client.ObjectKeyFromObject(object), object)
	object.Spec = v1.AzureIdentityPolicySpec{Mode: mode, Rules: rules}
	if err == nil {
		w.must(w.client.Update(w.t.Context(), object))
		return
	}
	w.must(client.IgnoreNotFound(err))
	w.create(object)
}

func policyChanges(t *testing.T, w *world) {
	red := v1.PolicyIdentities{ResourceIDs: []string{resourceID("re*")}}
	w.managed("red", "blue")
	w.start()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)

	w.policy(v1.PolicyEnforce, v1.PolicyRule{Name: "team", Namespaces: []string{"elsewhere"}, Identities: []v1.PolicyIdentities{red}})
	w.waitNone("p")
	w.waitHas()
	w.waitEvent("Pod", "p", events.IdentityRefused, "no rule of AzureIdentityPolicy default allows")
	w.waitEvent("AzureIdentityBinding", "red", events.BindingRefused, "AzureIdentityPolicy default")

	accounts := v1.PolicyRule{Name: "team", Namespaces: []string{w.namespace}, ServiceAccounts: []string{"api"}, Identities: []v1.PolicyIdentities{red}}
	w.policy(v1.PolicyEnforce, accounts)
	api := w.newPod("api", "red", w.nodes[0])
	api.Spec.ServiceAccountName = "api"
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "api"}})
	w.create(api)
	w.waitState("api", v1.StateAssigned)
	w.waitNone("p")
	w.pod("other", "blue")
	w.waitEvent("Pod", "other", events.IdentityRefused)

	w.policy(v1.PolicyWarn, accounts)
	w.waitState("p", v1.StateAssigned)
	w.waitState("other", v1.StateAssigned)
	w.eventually("a warning about the binding", func() string {
		var list eventsv1.EventList
		w.must(w.client.List(t.Context(), &list, client.InNamespace(w.namespace)))
		for _, e := range list.Items {
			if e.Regarding.Name == "blue" && strings.HasPrefix(e.Note, "the policy warns and does not enforce yet: no rule of") && e.Reason == events.BindingWouldBeRefused {
				return ""
			}
		}
		return "none"
	})
}

func policySelects(t *testing.T, w *world) {
	w.managed("red")
	w.policy(v1.PolicyEnforce, v1.PolicyRule{
		Name: "labelled", NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "red"}},
		Identities: []v1.PolicyIdentities{{}},
	})
	w.start()
	w.pod("p", "red")
	w.waitEvent("Pod", "p", events.IdentityRefused)
	w.waitNone("p")
	label := func(value string) {
		w.patch(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}}, `{"metadata":{"labels":{"team":`+value+`}}}`)
	}
	label(`"red"`)
	w.waitState("p", v1.StateAssigned)
	label("null")
	w.waitNone("p")
	w.must(w.client.Delete(t.Context(), policyNamed(v1.PolicyName)))
	w.waitState("p", v1.StateAssigned)
}

// withoutPolicyCRD is a cluster that migrated from aad-pod-identity by a chart upgrade, in which
// Helm installs no new CRD.
func withoutPolicyCRD(t *testing.T, w *world) {
	name := "azureidentitypolicies." + v1.GroupVersion.Group
	w.must(apiextensions.AddToScheme(w.client.Scheme()))
	w.delete(&apiextensions.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name}})
	w.managed("red")
	w.start()
	w.pod("p", "red")
	w.waitState("p", v1.StateAssigned)
	testenv.InstallCRDs(t, w.kube)
	w.policy(v1.PolicyEnforce)
	w.waitNone("p")
}
