// Package policywatch watches the cluster's AzureIdentityPolicy for MIC and NMI, and the labels of
// namespaces once a rule of the policy selects by them.
//
// A cluster without the CRD has no policy. This applies while the API server reports that it does
// not know the kind. After any other error the last policy stays in effect, or the watch stays
// unsynced.
package policywatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/listwatch"
)

// The resources that a Watch reads.
const (
	Policies   = "azureidentitypolicies"
	Namespaces = "namespaces"
)

// labelsLimit is how long a changed policy waits for the labels of the namespaces that it selects
// by. It then takes effect without them: its selectors match nothing.
const labelsLimit = 5 * time.Second

// Sink receives the objects. Its methods are called sequentially for each kind. Objects are shared
// and must not be changed.
type Sink interface {
	// SetPolicy gets the policy, or nil if there is none.
	SetPolicy(*v1.AzureIdentityPolicy)
	SetNamespace(name string, labels map[string]string)
	RemoveNamespace(name string)
}

// Config configures a Watch.
type Config struct {
	// Core and Group are clients of the core group and of podid's own group, with schemes that have
	// Namespace and AzureIdentityPolicy.
	Core, Group cache.Getter
	Sink        Sink
	// Note is called with the outcome of each request: the resource and the error, nil on success.
	Note func(resource string, err error)
}

// Watch watches the policy. It watches namespaces from the first policy on that selects by their
// labels. Most clusters have no such policy, and a watch from every node is a load on the API
// server.
type Watch struct {
	sink                 Sink
	policies, namespaces informer
	changed              chan struct{} // buffered, 1 element
	delivered            chan struct{} // closed when the sink has a policy with selectors

	mu        sync.Mutex
	current   *v1.AzureIdentityPolicy
	selecting bool // a policy has selected namespaces by their labels
}

type informer struct {
	cache.SharedIndexInformer
	handler cache.ResourceEventHandlerRegistration
}

// New prepares the watch. It does not send requests yet.
func New(c Config) (*Watch, error) {
	w := &Watch{sink: c.Sink, changed: make(chan struct{}, 1), delivered: make(chan struct{})}
	// If the API server has no CRD, the watch that follows the list starts with all objects that exist
	// by then.
	none := &v1.AzureIdentityPolicyList{ListMeta: metav1.ListMeta{ResourceVersion: "0"}}
	var err1, err2 error
	w.policies, err1 = newInformer(c, c.Group, Policies, &v1.AzureIdentityPolicy{}, none, stripPolicy, cache.ResourceEventHandlerFuncs{
		AddFunc:    w.setPolicy,
		UpdateFunc: func(_, object any) { w.setPolicy(object) },
		DeleteFunc: func(object any) {
			if key, err := cache.DeletionHandlingObjectToName(object); err == nil && key.Name == v1.PolicyName {
				w.set(nil)
			}
		},
	})
	w.namespaces, err2 = newInformer(c, c.Core, Namespaces, &corev1.Namespace{}, nil, stripNamespace, cache.ResourceEventHandlerFuncs{
		AddFunc:    w.setNamespace,
		UpdateFunc: func(_, object any) { w.setNamespace(object) },
		DeleteFunc: func(object any) {
			if key, err := cache.DeletionHandlingObjectToName(object); err == nil {
				w.sink.RemoveNamespace(key.Name)
			}
		},
	})
	return w, errors.Join(err1, err2)
}

func newInformer(c Config, api cache.Getter, resource string, example runtime.Object, absent runtime.Object,
	strip cache.TransformFunc, handler cache.ResourceEventHandler,
) (informer, error) {
	note := func(err error) { c.Note(resource, err) }
	source := listwatch.New(listwatch.Stream(
		cache.NewListWatchFromClient(api, resource, metav1.NamespaceAll, fields.Everything()),
		listwatch.Kind{Client: api, Resource: resource, New: example.DeepCopyObject, Strip: strip},
	), note)
	if absent != nil {
		source = source.Optional(absent)
	}
	i := informer{SharedIndexInformer: cache.NewSharedIndexInformer(source, example, 0, cache.Indexers{})}
	registration, err := i.AddEventHandler(handler)
	i.handler = registration
	err = errors.Join(err, i.SetTransform(strip),
		i.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { note(err) }))
	if err != nil {
		return informer{}, fmt.Errorf("watch %s: %w", resource, err)
	}
	return i, nil
}

func stripPolicy(object any) (any, error) {
	if p, ok := object.(*v1.AzureIdentityPolicy); ok {
		return &v1.AzureIdentityPolicy{ObjectMeta: stripMeta(p.ObjectMeta), Spec: p.Spec}, nil
	}
	return object, nil
}

func stripNamespace(object any) (any, error) {
	if n, ok := object.(*corev1.Namespace); ok {
		stripped := &corev1.Namespace{ObjectMeta: stripMeta(n.ObjectMeta)}
		stripped.Labels = n.Labels
		return stripped, nil
	}
	return object, nil
}

func stripMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation}
}

func (w *Watch) setNamespace(object any) {
	if n, ok := object.(*corev1.Namespace); ok {
		w.sink.SetNamespace(n.Name, n.Labels)
	}
}

func (w *Watch) setPolicy(object any) {
	if p, ok := object.(*v1.AzureIdentityPolicy); ok && p.Name == v1.PolicyName {
		w.set(p)
	}
}

// set delivers the policy at once, unless it needs labels of namespaces. In that case run delivers
// it and all later ones.
func (w *Watch) set(p *v1.AzureIdentityPolicy) {
	w.mu.Lock()
	w.current = p
	w.selecting = w.selecting || selects(p)
	selecting := w.selecting
	w.mu.Unlock()
	if !selecting {
		w.sink.SetPolicy(p)
		return
	}
	select {
	case w.changed <- struct{}{}:
	default: // the pending delivery includes it
	}
}

func selects(p *v1.AzureIdentityPolicy) bool {
	return p != nil && slices.ContainsFunc(p.Spec.Rules, func(r v1.PolicyRule) bool { return r.NamespaceSelector != nil })
}

// Run watches until ctx ends, and returns when the watches have ended.
func (w *Watch) Run(ctx context.Context) {
	var watches sync.WaitGroup
	defer watches.Wait()
	watches.Go(func() { w.policies.RunWithContext(ctx) })
	var once sync.Once
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		}
		once.Do(func() { w.watchNamespaces(ctx, &watches) })
		w.mu.Lock()
		current := w.current
		w.mu.Unlock()
		w.sink.SetPolicy(current)
		select {
		case <-w.delivered:
		default:
			close(w.delivered)
		}
	}
}

// watchNamespaces starts to watch namespaces and waits until they are known, but no longer than
// labelsLimit.
func (w *Watch) watchNamespaces(ctx context.Context, watches *sync.WaitGroup) {
	watches.Go(func() { w.namespaces.RunWithContext(ctx) })
	limited, cancel := context.WithTimeout(ctx, labelsLimit)
	defer cancel()
	cache.WaitForCacheSync(limited.Done(), w.namespaces.handler.HasSynced)
}

// Missing returns the resources that have not been read yet. It returns none once the sink has the
// policy and everything that the policy needs.
func (w *Watch) Missing() []string {
	w.mu.Lock()
	selecting := w.selecting
	w.mu.Unlock()
	switch {
	case !w.policies.handler.HasSynced():
		return []string{Policies}
	case selecting && !w.namespaces.handler.HasSynced():
		return []string{Namespaces}
	default:
		return nil
	}
}

// Wait returns true once the sink has the policy and everything that the policy needs, and false if
// ctx ends before.
func (w *Watch) Wait(ctx context.Context) bool {
	if !cache.WaitForCacheSync(ctx.Done(), w.policies.handler.HasSynced) {
		return false
	}
	w.mu.Lock()
	selecting := w.selecting
	w.mu.Unlock()
	if !selecting {
		return true
	}
	select {
	case <-w.delivered:
	case <-ctx.Done():
		return false
	}
	return cache.WaitForCacheSync(ctx.Done(), w.namespaces.handler.HasSynced)
}
