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
