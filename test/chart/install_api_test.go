// The chart against a real API server: every set of values is accepted as rendered, the roles allow
// exactly what the programs do, and an uninstall leaves only what the README lists.

package chart

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/podid-io/podid/internal/testenv"
)

// cluster is an API server with etcd, without controllers.
type cluster struct {
	client.Client
	kubeconfig string
}

// startCluster starts a cluster for the test. crds is a folder of CRDs to install first, or "".
func startCluster(t *testing.T, crds string) cluster {
	t.Helper()
	env := testenv.Start(t, func(env *envtest.Environment) {
		if crds != "" {
			env.CRDDirectoryPaths, env.ErrorIfCRDPathMissing = []string{crds}, true
		}
		// As in a real cluster: a kubelet gets tokens of the ServiceAccounts of its own pods.
		env.ControlPlane.GetAPIServer().Configure().
			Set("authorization-mode", "Node", "RBAC").Append("enable-admission-plugins", "NodeRestriction")
	})
	return cluster{Client: testenv.Client(t, env.Config), kubeconfig: testenv.Kubeconfig(t, env)}
}

// helm runs helm against the cluster.
func (c cluster) helm(t *testing.T, args ...string) string {
	t.Helper()
	out, err := runHelm(t, append(args, "--kubeconfig", c.kubeconfig, "--namespace", namespace)...)
	if err != nil {
		t.Fatalf("helm %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (c cluster) namespace(t *testing.T, name string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := client.IgnoreAlreadyExists(c.Create(t.Context(), ns)); err != nil {
		t.Fatal(err)
	}
}

func TestAccepted(t *testing.T) {
	api := startCluster(t, filepath.Join(chartDir, "crds"))
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			for _, object := range render(t, "--values", values) {
				if foreign(object) {
					continue
				}
				if in := object.GetNamespace(); in != "" {
					api.namespace(t, in)
				}
				err := api.Create(t.Context(), object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
				if err != nil && (object.GetKind() != "Namespace" || !apierrors.IsAlreadyExists(err)) {
					t.Errorf("%s: %v", id(object), err)
				}
			}
		})
	}
}

func TestInstalled(t *testing.T) {
	api := startCluster(t, "")
	api.helm(t, "install", "podid", chartDir, "--create-namespace", "--values", "testdata/values/default.yaml", "--set", "limitObjects=false")
	giantBefore(t, api)
	api.helm(t, "upgrade", "podid", chartDir, "--values", "testdata/values/default.yaml")
	// podid identity federate may have created the brokers' namespace before; then it does not
	// belong to the chart.
	api.namespace(t, "made-before")
	out := api.helm(t, "upgrade", "podid", chartDir, "--dry-run=server", "--set", "federation.namespace=made-before")
	if strings.Contains(out, "kind: Namespace") || !strings.Contains(out, "namespace: made-before") {
		t.Error("the chart makes a namespace that is there")
	}
	t.Run("rights", func(t *testing.T) { rights(t, api) })
	t.Run("nodes", func(t *testing.T) { nodePolicy(t, api) })
	t.Run("brokers", func(t *testing.T) { brokerPolicy(t, api) })
	t.Run("secrets", func(t *testing.T) { secretRights(t, api) })
	t.Run("CRDs", func(t *testing.T) { oldCRDs(t, api) })
	t.Run("Pod Security", func(t *testing.T) { podSecurity(t, api) })
	t.Run("limits", func(t *testing.T) { objectLimits(t, api) })

	api.helm(t, "upgrade", "podid", chartDir, "--values", "testdata/values/default.yaml", "--set", "federation.limitToNodes=true")
	t.Run("brokers by node", func(t *testing.T) { brokersByNode(t, api) })

	// Switching modes and back works: nothing immutable changes.
	api.helm(t, "upgrade", "podid", chartDir, "--values", "testdata/values/managed.yaml")
	api.helm(t, "upgrade", "podid", chartDir, "--values", "testdata/values/adminsecret.yaml")

	api.helm(t, "uninstall", "podid")
	if left := ours(t, api); len(left) > 0 {
		t.Errorf("uninstall left %s", strings.Join(left, ", "))
	}
	// Another installation follows at once: nothing is still being deleted.
	for _, release := range []string{"podid", "other"} {
		api.helm(t, "install", release, chartDir)
		api.helm(t, "uninstall", release)
	}
	crds := list(t, api, schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	if len(crds) != 5 {
		t.Errorf("uninstall left %d CRDs, want all 5: users' objects live in them", len(crds))
	}
}

// foreign reports whether an object is of a kind that Kubernetes and the chart do not have.
func foreign(object *unstructured.Unstructured) bool {
	switch object.GroupVersionKind().Group {
	case "monitoring.coreos.com", "security.openshift.io", "cilium.io", "projectcalico.org":
		return true
	}
	return false
}

// rights asks the API server for the permissions of the two service accounts.
func rights(t *testing.T, api cluster) {
	const group, everywhere = "aadpodidentity.k8s.io", ""
	for _, test := range []struct {
		who, verb, group, resource, subresource, name, namespace string
		want                                                     bool
	}{
		{"mic", "watch", "", "pods", "", "", everywhere, true},
		{"mic", "watch", "", "nodes", "", "", everywhere, true},
		{"mic", "list", group, "azureidentities", "", "", everywhere, true},
		{"mic", "update", group, "azureidentities", "", "", everywhere, true}, // mic.typeUpgrade
		{"mic", "create", group, "azureidentities", "", "", everywhere, false},
		{"mic", "delete", group, "azureidentities", "", "", everywhere, false},
		{"mic", "update", group, "azureidentitybindings", "", "", everywhere, true},
		{"mic", "update", group, "azurepodidentityexceptions", "", "", everywhere, false},
		{"mic", "watch", group, "azureidentitybindings", "", "", everywhere, true},
		{"mic", "watch", group, "azurepodidentityexceptions", "", "", everywhere, true},
		{"mic", "create", group, "azurepodidentityexceptions", "", "", namespace, false},
		{"mic", "create", group, "azureassignedidentities", "", "", everywhere, true},
		{"mic", "delete", group, "azureassignedidentities", "", "", everywhere, true},
		{"mic", "update", group, "azureassignedidentities", "finalizers", "", everywhere, true},
		{"mic", "create", "", "events", "", "", everywhere, true},
		{"mic", "patch", "events.k8s.io", "events", "", "", everywhere, true},
		{"mic", "update", "", "configmaps", "", "ledger", namespace, true},
		{"mic", "get", "", "configmaps", "", "any", "kube-system", false},
		{"mic", "create", "coordination.k8s.io", "leases", "", "", namespace, true},
		{"mic", "update", "coordination.k8s.io", "leases", "", "aad-pod-identity-mic", namespace, true},
		{"mic", "update", "coordination.k8s.io", "leases", "", "another", namespace, false},
		{"mic", "get", "", "secrets", "", "any", namespace, false},
		{"mic", "patch", "", "pods", "", "any", everywhere, false},
		{"mic", "patch", "", "pods", "status", "any", everywhere, true},
		{"mic", "update", "", "pods", "status", "any", everywhere, false},
		{"mic", "patch", group, "azureidentities", "", "any", everywhere, false},
		{"mic", "patch", group, "azureidentities", "status", "any", everywhere, true},
		{"mic", "update", group, "azureidentities", "status", "any", everywhere, false},
		{"nmi", "watch", "", "pods", "", "", everywhere, true},
		{"nmi", "watch", "", "nodes", "", "", everywhere, true},
		{"nmi", "patch", "", "nodes", "", "node", everywhere, true}, // nmi.startupTaint; the admission policy narrows it
		{"nmi", "update", "", "nodes", "", "node", everywhere, false},
		{"nmi", "patch", "", "nodes", "status", "node", everywhere, false},
		{"mic", "patch", "", "nodes", "", "node", everywhere, false}, // mic.agentTaintAfter
		{"nmi", "watch", group, "azureidentities", "", "", everywhere, true},
		{"nmi", "watch", group, "azureidentitybindings", "", "", everywhere, true},
		{"nmi", "watch", group, "azurepodidentityexceptions", "", "", everywhere, true},
		{"nmi", "watch", group, "azureassignedidentities", "", "", everywhere, true},
		{"mic", "watch", group, "azureidentitypolicies", "", "", everywhere, true},
		{"nmi", "watch", group, "azureidentitypolicies", "", "", everywhere, true},
		{"mic", "update", group, "azureidentitypolicies", "", "default", everywhere, false},
		{"nmi", "update", group, "azureidentitypolicies", "", "default", everywhere, false},
		{"mic", "watch", "", "namespaces", "", "", everywhere, true},
		{"nmi", "watch", "", "namespaces", "", "", everywhere, true},
		{"mic", "patch", "", "namespaces", "", "shop", everywhere, false},
		{"nmi", "patch", "", "namespaces", "", "shop", everywhere, false},
		{"nmi", "update", group, "azureassignedidentities", "", "any", everywhere, false},
		{"nmi", "get", "", "secrets", "", "any", namespace, false},
		{"nmi", "get", "", "configmaps", "", "any", namespace, false},
		{"nmi", "create", "", "serviceaccounts", "token", "shop.web", "podid-brokers", true}, // the admission policy narrows it
		{"nmi", "create", "", "serviceaccounts", "token", "podid-mic", namespace, false},
		{"nmi", "create", "", "serviceaccounts", "", "", "podid-brokers", false},
		{"mic", "create", "", "serviceaccounts", "", "", "podid-brokers", true},
		{"mic", "delete", "", "serviceaccounts", "", "shop.web", "podid-brokers", true},
		{"mic", "watch", "", "serviceaccounts", "", "", "podid-brokers", true},
		{"mic", "create", "", "serviceaccounts", "token", "shop.web", "podid-brokers", false},
		{"mic", "create", "", "serviceaccounts", "", "", namespace, false},
	} {
		may := allowed(t, api, "podid-"+test.who, authorizationv1.ResourceAttributes{
			Verb: test.verb, Group: test.group, Resource: test.resource, Subresource: test.subresource, Name: test.name, Namespace: test.namespace,
		})
		if may != test.want {
			t.Errorf("%s may %s %s/%s in %q: %t, want %t", test.who, test.verb, test.resource, test.subresource, test.namespace, may, test.want)
		}
	}
}

// allowed asks the API server for a permission of one of the chart's ServiceAccounts.
func allowed(t *testing.T, api cluster, account string, what authorizationv1.ResourceAttributes) bool {
	t.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: fmt.Sprintf("system:serviceaccount:%s:%s", namespace, account), ResourceAttributes: &what,
	}}
	testenv.Create(t, api, review)
	return review.Status.Allowed
}

// ours lists the objects of the release, of every kind that the chart creates.
func ours(t *testing.T, api cluster) []string {
	t.Helper()
	var left []string
	for _, kind := range []schema.GroupVersionKind{
		{Version: "v1", Kind: "ServiceAccount"},
		{Version: "v1", Kind: "Secret"},
		{Group: "apps", Version: "v1", Kind: "Deployment"},
		{Group: "apps", Version: "v1", Kind: "DaemonSet"},
		{Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"},
		{Group: "aadpodidentity.k8s.io", Version: "v1", Kind: "AzurePodIdentityException"},
		{Group: "aadpodidentity.k8s.io", Version: "v1", Kind: "AzureIdentityPolicy"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicy"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicyBinding"},
	} {
		for _, object := range list(t, api, kind) {
			if object.GetLabels()["app.kubernetes.io/instance"] == "podid" {
				left = append(left, id(&object))
			}
		}
	}
	slices.Sort(left)
	return left
}

func list(t *testing.T, api cluster, kind schema.GroupVersionKind) []unstructured.Unstructured {
	t.Helper()
	var objects unstructured.UnstructuredList
	objects.SetGroupVersionKind(kind)
	if err := api.List(t.Context(), &objects); err != nil {
		t.Fatalf("list %s: %v", kind.Kind, err)
	}
	return objects.Items
}
