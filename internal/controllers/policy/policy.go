// Package policy provides MIC's controllers with the rules for decisions: the program's settings,
// the current AzureIdentityPolicy, and the namespace labels that the policy selects by.
package policy

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/identity"
	"github.com/podid-io/podid/internal/policywatch"
)

// Rules holds the current rules. It is safe for concurrent use.
type Rules struct {
	settings identity.Rules
	log      logr.Logger
	synced   chan struct{}
	policy   atomic.Pointer[identity.Policy]

	changed    func(namespace string)
	mu         sync.RWMutex
	namespaces map[string]map[string]string
}

// New returns rules without a policy. They get one once their watch runs. changed is called after
// each change with the affected namespace, or "" for all.
func New(settings identity.Rules, log logr.Logger, changed func(namespace string)) *Rules {
	return &Rules{
		settings: settings, log: log, changed: changed,
		synced: make(chan struct{}), namespaces: map[string]map[string]string{},
	}
}

// Fixed returns rules that never change and need no manager.
func Fixed(settings identity.Rules) *Rules {
	r := New(settings, logr.Discard(), func(string) {})
	close(r.synced)
	return r
}

// Current returns the current rules.
func (r *Rules) Current() identity.Rules { return r.settings.With(r.policy.Load()) }

// Wait blocks until the policy has been read, and fails if ctx ends first. No decision may be made
// before that.
func (r *Rules) Wait(ctx context.Context) error {
	select {
	case <-r.synced:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for AzureIdentityPolicy %s: %w", v1.PolicyName, ctx.Err())
	}
}

// Pod returns what the rules need to know about a pod.
func (r *Rules) Pod(pod *corev1.Pod) identity.Pod {
	return identity.Pod{
		Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels,
		ServiceAccount: pod.Spec.ServiceAccountName, NamespaceLabels: r.NamespaceLabels(pod.Namespace),
	}
}

// NamespaceLabels returns the labels of a namespace, or nil while the policy does not need them.
func (r *Rules) NamespaceLabels(namespace string) map[string]string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.namespaces[namespace]
}

// SetPolicy implements policywatch.Sink.
func (r *Rules) SetPolicy(object *v1.AzureIdentityPolicy) {
	policy, err := identity.CompilePolicy(object)
	if err != nil {
		r.log.Error(err, "part of the AzureIdentityPolicy is ignored")
	}
	r.policy.Store(policy)
	r.log.Info("policy read", "mode", policy.Mode())
	r.changed("")
}

// SetNamespace implements policywatch.Sink.
func (r *Rules) SetNamespace(name string, labels map[string]string) {
	if labels == nil {
		labels = map[string]string{} // known to have no labels
	}
	r.mu.Lock()
	known := r.namespaces[name]
	same := known != nil && maps.Equal(known, labels)
	r.namespaces[name] = labels
	r.mu.Unlock()
	if !same {
		r.changed(name)
	}
}

// RemoveNamespace implements policywatch.Sink.
func (r *Rules) RemoveNamespace(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.namespaces, name)
}

// Watch returns the watch that keeps the rules up to date. The manager's scheme must have both
// kinds. report is called with the outcome of each request.
func (r *Rules) Watch(mgr manager.Manager, report func(resource string, err error)) (manager.Runnable, error) {
	core, err := restClient(mgr, corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err != nil {
		return nil, err
	}
	group, err := restClient(mgr, v1.GroupVersion.WithKind("AzureIdentityPolicy"))
	if err != nil {
		return nil, err
	}
	watch, err := policywatch.New(policywatch.Config{Core: core, Group: group, Sink: r, Note: report})
	if err != nil {
		return nil, err
	}
	return &runnable{watch, r}, nil
}

func restClient(mgr manager.Manager, kind schema.GroupVersionKind) (rest.Interface, error) {
	c, err := apiutil.RESTClientForGVK(kind, false, false, mgr.GetConfig(), serializer.NewCodecFactory(mgr.GetScheme()), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", kind.Kind, err)
	}
	return c, nil
}

// runnable watches the policy and closes synced once the policy has been read.
type runnable struct {
	watch *policywatch.Watch
	rules *Rules
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*runnable) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable.
func (w *runnable) Start(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.watch.Run(ctx)
	}()
	if w.watch.Wait(ctx) {
		close(w.rules.synced)
	}
	<-done
	return nil
}
