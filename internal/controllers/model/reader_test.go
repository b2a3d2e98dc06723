// MIC's reads of its caches: the rest of cache.Cache.

package model

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	crcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Get implements client.Reader.
func (c *caches) Get(_ context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	i := c.informers[kindOf(into)]
	if i == nil {
		return &crcache.ErrResourceNotCached{}
	}
	have := i.one(name)
	if have == nil {
		return apierrors.NewNotFound(resourceOf(i.kind), name.Name)
	}
	write(into, copied(have))
	return nil
}

// List implements client.Reader. It sorts by name, whereas the real cache's order is random.
func (c *caches) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	k := itemOf(list)
	i := c.informers[k]
	if i == nil {
		return &crcache.ErrResourceNotCached{}
	}
	var options client.ListOptions
	options.ApplyOptions(opts)
	var found []runtime.Object
	all := i.all()
	slices.SortFunc(all, func(a, b client.Object) int { return strings.Compare(key(a), key(b)) })
	for _, o := range all {
		match, err := c.matches(k, o, &options)
		if err != nil {
			return err
		}
		if !match {
			continue
		}
		found = append(found, copied(o))
		if options.Limit > 0 && int64(len(found)) == options.Limit {
			break
		}
	}
	return meta.SetList(list, found)
}

func (c *caches) matches(k kind, o client.Object, options *client.ListOptions) (bool, error) {
	if options.Namespace != "" && options.Namespace != o.GetNamespace() {
		return false, nil
	}
	if options.FieldSelector == nil {
		return true, nil
	}
	for _, want := range options.FieldSelector.Requirements() {
		index := c.indexes[k][want.Field]
		if index == nil {
			return false, fmt.Errorf("no index %s of %s", want.Field, k)
		}
		if !slices.Contains(index(o), want.Value) {
			return false, nil
		}
	}
	return true, nil
}

// itemOf returns the kind of a list's items.
func itemOf(list client.ObjectList) kind {
	return reflect.TypeOf(list).Elem().Field(2).Type.Elem()
}

func write(into, from client.Object) { reflect.ValueOf(into).Elem().Set(reflect.ValueOf(from).Elem()) }

// GetInformer implements cache.Informers.
func (c *caches) GetInformer(_ context.Context, o client.Object, _ ...crcache.InformerGetOption) (crcache.Informer, error) {
	i := c.informers[kindOf(o)]
	if i == nil {
		return nil, fmt.Errorf("%T is not cached", o)
	}
	return i, nil
}

// GetInformerForKind implements cache.Informers.
func (c *caches) GetInformerForKind(context.Context, schema.GroupVersionKind, ...crcache.InformerGetOption) (crcache.Informer, error) {
	return nil, fmt.Errorf("not in the model")
}

// RemoveInformer implements cache.Informers.
func (c *caches) RemoveInformer(context.Context, client.Object) error { return nil }

// WaitForCacheSync implements cache.Informers.
func (c *caches) WaitForCacheSync(context.Context) bool { return true }

// IndexField implements client.FieldIndexer.
func (c *caches) IndexField(_ context.Context, o client.Object, field string, index client.IndexerFunc) error {
	k := kindOf(o)
	if c.indexes[k] == nil {
		c.indexes[k] = map[string]client.IndexerFunc{}
	}
	if c.indexes[k][field] != nil {
		return fmt.Errorf("index %s of %s exists", field, k)
	}
	c.indexes[k][field] = index
	return nil
}

// registration is the registration of a handler that has received the initial list.
type registration struct{ done chan struct{} }

// HasSynced implements toolscache.ResourceEventHandlerRegistration.
func (registration) HasSynced() bool { return true }

// HasSyncedChecker implements toolscache.ResourceEventHandlerRegistration.
func (r registration) HasSyncedChecker() toolscache.DoneChecker { return r }

// Name implements toolscache.DoneChecker.
func (registration) Name() string { return "model" }

// Done implements toolscache.DoneChecker.
func (r registration) Done() <-chan struct{} { return r.done }

func synced() registration {
	r := registration{make(chan struct{})}
	close(r.done)
	return r
}

// AddEventHandlerWithOptions implements crcache.Informer.
func (i *informer) AddEventHandlerWithOptions(h toolscache.ResourceEventHandler, _ toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	i.mu.Lock()
	i.handlers = append(i.handlers, h)
	all := i.allLocked()
	i.mu.Unlock()
	for _, o := range all {
		h.OnAdd(o, true)
	}
	return synced(), nil
}

// AddEventHandler implements crcache.Informer.
func (i *informer) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithOptions(h, toolscache.HandlerOptions{})
}

// AddEventHandlerWithResyncPeriod implements crcache.Informer.
func (i *informer) AddEventHandlerWithResyncPeriod(h toolscache.ResourceEventHandler, _ time.Duration) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithOptions(h, toolscache.HandlerOptions{})
}

// RemoveEventHandler implements crcache.Informer.
func (i *informer) RemoveEventHandler(toolscache.ResourceEventHandlerRegistration) error { return nil }

// AddIndexers implements crcache.Informer.
func (i *informer) AddIndexers(toolscache.Indexers) error { return nil }

// HasSynced implements crcache.Informer.
func (i *informer) HasSynced() bool { return true }

// HasSyncedChecker implements crcache.Informer.
func (i *informer) HasSyncedChecker() toolscache.DoneChecker { return synced() }

// IsStopped implements crcache.Informer.
func (i *informer) IsStopped() bool { return false }
