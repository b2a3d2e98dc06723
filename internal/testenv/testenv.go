// Package testenv starts API servers for tests. Each is a kube-apiserver with its own etcd, on
// loopback, and ends with its test.
package testenv

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/go-logr/logr"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Require skips the test if there is no API server to start.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("needs an API server (KUBEBUILDER_ASSETS): run make test-api")
	}
}

// Start starts an API server after options have changed its settings, or skips the test.
func Start(t testing.TB, options ...func(*envtest.Environment)) *envtest.Environment {
	t.Helper()
	Require(t)
	ctrl.SetLogger(logr.Discard())
	env := &envtest.Environment{ControlPlaneStartTimeout: time.Minute, ControlPlaneStopTimeout: time.Minute}
	for _, option := range options {
		option(env)
	}
	t.Cleanup(func() { // also after a failed start, which may leave an etcd
		if err := env.Stop(); err != nil {
			t.Errorf("stop the API server: %v", err)
		}
	})
	if _, err := env.Start(); err != nil {
		t.Fatalf("start the API server: %v", err)
	}
	return env
}

// WithCRDs installs podid's kinds.
func WithCRDs(env *envtest.Environment) {
	env.CRDDirectoryPaths, env.ErrorIfCRDPathMissing = []string{CRDs()}, true
}

// InstallCRDs installs podid's kinds in an API server that was started without them.
func InstallCRDs(t testing.TB, config *rest.Config) {
	t.Helper()
	options := envtest.CRDInstallOptions{Paths: []string{CRDs()}, ErrorIfPathMissing: true}
	if _, err := envtest.InstallCRDs(config, options); err != nil {
		t.Fatalf("install podid's kinds: %v", err)
	}
}

// CRDs returns the folder with the definitions of podid's kinds.
func CRDs() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "config", "crd")
}

// Kubeconfig writes the administrator's kubeconfig of an API server to a file of the test.
func Kubeconfig(t testing.TB, env *envtest.Environment) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Client returns a client for the types that the functions add; without any, those of Kubernetes.
func Client(t testing.TB, config *rest.Config, types ...func(*k8sruntime.Scheme) error) client.Client {
	t.Helper()
	var options client.Options
	if len(types) > 0 {
		options.Scheme = k8sruntime.NewScheme()
	}
	for _, add := range types {
		if err := add(options.Scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(config, options)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Create creates objects, one after the other.
func Create(t testing.TB, api client.Client, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := api.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
}

// Grant gives a user permissions in the whole cluster. Role and binding get the name.
func Grant(t testing.TB, api client.Client, user, name string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name}
	Create(t, api, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}, Subjects: users(user),
	})
}

// GrantIn gives a user permissions in one namespace. Role and binding get the name.
func GrantIn(t testing.TB, api client.Client, user, namespace, name string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	Create(t, api, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}, Subjects: users(user),
	})
}

func users(name string) []rbacv1.Subject {
	return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}}
}
