package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/federation"
)

// newFederated returns an AzureIdentity of type 3.
func newFederated(namespace, name string) *v1.AzureIdentity {
	return &v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.AzureIdentitySpec{Type: v1.Federated, ClientID: "99999999-0000-0000-0000-000000000000", TenantID: subscription},
	}
}

func (w *world) federated(name string) *v1.AzureIdentity {
	w.t.Helper()
	id := newFederated(w.namespace, name)
	w.create(id)
	return id
}

// brokers returns the names of the ServiceAccounts in the brokers' namespace.
func (w *world) brokers() []string {
	w.t.Helper()
	var list corev1.ServiceAccountList
	w.must(w.client.List(w.t.Context(), &list, client.InNamespace(w.config.BrokerNamespace)))
	var names []string
	for _, account := range list.Items {
		names = append(names, account.Name)
	}
	slices.Sort(names)
	return names
}

func (w *world) waitBrokers(names ...string) {
	w.t.Helper()
	for i := range names {
		names[i] = strings.ReplaceAll(names[i], "NS", w.namespace)
	}
	w.eventually(fmt.Sprintf("brokers %v", names), func() string {
		if have := w.brokers(); !slices.Equal(have, names) {
			return fmt.Sprintf("has %v", have)
		}
		return ""
	})
}

// waitBroker waits for the Broker condition of an identity and returns its message.
func (w *world) waitBroker(id *v1.AzureIdentity, status metav1.ConditionStatus, reason string) string {
	w.t.Helper()
	return w.waitIdentity(id.Name, v1.ConditionBroker, status, reason).Message
}

// TestBrokers covers the lifecycle of brokers: they are created and deleted with federated
// identities, and other ServiceAccounts are not touched.
func TestBrokers(t *testing.T) {
	kube := startServer(t)
	t.Run("life", func(t *testing.T) { testBrokerLife(t, kube) })
	t.Run("forbidden", func(t *testing.T) { testBrokerForbidden(t, kube) })
}

func testBrokerLife(t *testing.T, kube *rest.Config) {
	w := newWorld(t, kube, "brokers")
	w.config.BrokerNamespace = "brokers-life"
	one := w.federated("one")
	w.start()

	// The namespace does not exist yet, and an Event on the identity says what to do.
	w.waitEvent("AzureIdentity", "one", "no broker", "brokers-life, does not exist: create it")
	w.waitBroker(one, metav1.ConditionFalse, "NamespaceMissing")
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "brokers-life"}})
	foreign := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "brokers-life", Name: w.namespace + ".foreign"}}
	w.create(foreign)
	w.waitBrokers("NS.foreign", "NS.one")
	w.waitBroker(one, metav1.ConditionTrue, "Ready")

	var account corev1.ServiceAccount
	w.must(w.client.Get(t.Context(), client.ObjectKey{Namespace: "brokers-life", Name: w.namespace + ".one"}, &account))
	if account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken ||
		account.Labels[federation.ManagedByLabel] != federation.ManagedBy || account.Annotations[federation.BrokerOfAnnotation] != w.namespace+"/one" {
		t.Errorf("the broker is %+v", account)
	}
	w.delete(&account) // by mistake
	w.waitBrokers("NS.foreign", "NS.one")

	two, three := w.federated("two"), w.federated("three")
	w.federated("foreign") // has a ServiceAccount that podid did not create
	shared := newFederated(w.namespace, "shared")
	shared.Spec.SharedFrom = v1.IdentityReference{Namespace: "platform", Name: "cloud"}
	w.create(shared)
	w.waitBrokers("NS.foreign", "NS.one", "NS.three", "NS.two")

	// In turn: no longer federated, deleted, and deleted while no MIC ran.
	w.delete(one)
	w.must(w.client.Get(t.Context(), client.ObjectKeyFromObject(two), two))
	two.Spec.Type, two.Spec.ResourceID = v1.UserAssignedMSI, resourceID("two")
	w.must(w.client.Update(t.Context(), two))
	w.waitBrokers("NS.foreign", "NS.three")
	w.stop()
	w.delete(three)
	w.delete(&v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "foreign"}})
	w.federated("four")
	w.start()
	w.waitBrokers("NS.foreign", "NS.four")
}

func testBrokerForbidden(t *testing.T, kube *rest.Config) {
	w := newWorld(t, kube, "forbidden")
	w.config.BrokerNamespace = "brokers-forbidden"
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "brokers-forbidden"}})
	all := []string{"*"}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "mic-without-brokers"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"aadpodidentity.k8s.io", "events.k8s.io"}, Resources: all, Verbs: all},
		{APIGroups: []string{""}, Resources: []string{"pods", "nodes", "configmaps", "events"}, Verbs: all},
	}}
	w.create(role)
	w.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "mic"}},
	})
	w.kube = rest.CopyConfig(kube)
	w.kube.Impersonate.UserName = "mic"
	id := w.federated("one")
	w.start()
	if message := w.waitBroker(id, metav1.ConditionFalse, "Forbidden"); !strings.Contains(message, "may not list ServiceAccounts in namespace brokers-forbidden: grant it") {
		t.Errorf("says %q", message)
	}
	// MIC may list ServiceAccounts but not create them.
	w.must(w.client.Get(t.Context(), client.ObjectKeyFromObject(role), role))
	role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"list", "watch"}})
	w.must(w.client.Update(t.Context(), role))
	w.eventually("another reason", func() string {
		if m := w.waitBroker(id, metav1.ConditionFalse, "Forbidden"); !strings.Contains(m, "may not create ServiceAccounts") {
			return m
		}
		return ""
	})
	role.Rules[2].Verbs = append(role.Rules[2].Verbs, "create")
	w.must(w.client.Update(t.Context(), role))
	w.waitBrokers(w.namespace + ".one")
	w.waitBroker(id, metav1.ConditionTrue, "Ready")
}

// TestSharing: an identity shared from another namespace can be used only while its owner consents.
func TestSharing(t *testing.T) {
	w := newWorld(t, startServer(t), "sharing")
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns-owner"}})
	owner := newFederated("ns-owner", "cloud")
	w.create(owner)
	shared := newFederated(w.namespace, "web")
	shared.Spec.SharedFrom = v1.IdentityReference{Namespace: "ns-owner", Name: "cloud"}
	w.create(shared)
	w.binding("web", "web")
	w.pod("web-0", "web")
	w.start()
	w.waitEvent("AzureIdentityBinding", "web", "binding refused", "or does not allow namespace "+w.namespace)
	w.waitNone("web-0")
	agree := func(namespaces string) {
		t.Helper()
		w.must(w.client.Get(t.Context(), client.ObjectKeyFromObject(owner), owner))
		owner.Annotations = map[string]string{v1.AllowedNamespacesAnnotation: namespaces}
		w.must(w.client.Update(t.Context(), owner))
	}
	agree("other, " + w.namespace)
	w.waitState("web-0", v1.StateAssigned)
	agree("other")
	w.waitNone("web-0")
}

// TestBrokersByNode: a node's Role names the brokers that its pods need, and exists while there are
// any.
func TestBrokersByNode(t *testing.T) {
	w := newWorld(t, startServer(t), "bynode")
	w.config.BrokerNamespace, w.config.BrokersByNode = "brokers-bynode", true
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "brokers-bynode"}})
	for _, name := range []string{"one", "two"} {
		w.federated(name)
		w.binding(name, name)
	}
	w.identity("managed")
	allowed := func(brokers ...string) {
		t.Helper()
		w.eventually(fmt.Sprintf("brokers %v for the node", brokers), func() string {
			var role rbacv1.Role
			err := w.client.Get(t.Context(), client.ObjectKey{Namespace: "brokers-bynode", Name: "podid:node:" + w.nodes[0]}, &role)
			var binding rbacv1.RoleBinding
			bound := w.client.Get(t.Context(), client.ObjectKey{Namespace: "brokers-bynode", Name: "podid:node:" + w.nodes[0]}, &binding)
			switch {
			case len(brokers) == 0 && client.IgnoreNotFound(err) == nil && err != nil && bound != nil:
				return ""
			case err != nil || bound != nil:
				return fmt.Sprint(err, bound)
			case !slices.Equal(role.Rules[0].ResourceNames, brokers) || binding.Subjects[0].Name != w.nodes[0]:
				return fmt.Sprint(role.Rules, binding.Subjects)
			}
			return ""
		})
	}
	w.start()
	w.pod("managed-0", "managed")
	first, second, third := w.pod("one-0", "one"), w.pod("one-1", "one"), w.pod("two-0", "two")
	allowed(w.namespace+".one", w.namespace+".two")
	w.delete(third)
	w.delete(second)
	allowed(w.namespace + ".one")
	w.stop()
	w.start()
	w.delete(first)
	allowed()
}
