// MIC's writes to the API server, and its reads past the caches.

package model

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	v1 "github.com/podid-io/podid/api/v1"
)

// errKilled is what every request of a killed MIC returns: none arrives anymore.
var errKilled = errors.New("killed")

// kube is the client.Client of one MIC.
type kube struct {
	client.Reader // the caches
	server        *apiServer
	scheme        *runtime.Scheme
	// slow is how long a write of an assigned identity takes.
	slow   time.Duration
	killed *atomic.Bool
	// wrote is called after every write that the server has accepted.
	wrote func(verb string, o client.Object)
}

// begin simulates the connection to the server. It returns the fault to inject, if any.
func (c *kube) begin(ctx context.Context, o client.Object) (apiFault, error) {
	if _, ok := o.(*v1.AzureAssignedIdentity); ok && c.slow > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(c.slow):
		}
	}
	if c.killed.Load() {
		return apiFault{}, errKilled
	}
	if err := ctx.Err(); err != nil {
		return apiFault{}, err
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if len(c.server.fails) == 0 {
		return apiFault{}, nil
	}
	fault := c.server.fails[0]
	c.server.fails = c.server.fails[1:]
	if !fault.done {
		return fault, fault.err
	}
	return fault, nil
}

// do performs one write.
func (c *kube) do(ctx context.Context, verb string, o client.Object, write func() error) error {
	fault, err := c.begin(ctx, o)
	if apierrors.IsConflict(err) && verb == "delete" {
		err = refusedByServer(0).err // the real server retries a deletion itself
	}
	if err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	c.wrote(verb, o)
	return fault.err
}

// Create implements client.Client.
func (c *kube) Create(ctx context.Context, o client.Object, _ ...client.CreateOption) error {
	return c.do(ctx, "create", o, func() error { return c.server.create(o) })
}

// Update implements client.Client.
func (c *kube) Update(ctx context.Context, o client.Object, _ ...client.UpdateOption) error {
	return c.do(ctx, "update", o, func() error { return c.update(o, false) })
}

func (c *kube) update(o client.Object, status bool) error {
	after, err := c.server.update(kindOf(o), client.ObjectKeyFromObject(o), status, func(client.Object) (client.Object, error) { return o, nil })
	if err == nil {
		write(o, after)
	}
	return err
}

// Delete implements client.Client.
func (c *kube) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	var options client.DeleteOptions
	options.ApplyOptions(opts)
	return c.do(ctx, "delete", o, func() error {
		return c.server.delete(kindOf(o), client.ObjectKeyFromObject(o), options.Preconditions)
	})
}

// Patch implements client.Client.
func (c *kube) Patch(ctx context.Context, o client.Object, patch client.Patch, _ ...client.PatchOption) error {
	return c.do(ctx, "patch", o, func() error { return c.patch(o, patch, false) })
}

func (c *kube) patch(o client.Object, patch client.Patch, status bool) error {
	data, err := patch.Data(o)
	if err != nil {
		return err
	}
	after, err := c.server.patch(kindOf(o), client.ObjectKeyFromObject(o), status, patch.Type(), data)
	if err == nil {
		write(o, after)
	}
	return err
}

// DeleteAllOf implements client.Client.
func (c *kube) DeleteAllOf(context.Context, client.Object, ...client.DeleteAllOfOption) error {
	return errors.New("not in the model")
}

// Apply implements client.Client.
func (c *kube) Apply(context.Context, runtime.ApplyConfiguration, ...client.ApplyOption) error {
	return errors.New("not in the model")
}

// Status implements client.Client.
func (c *kube) Status() client.SubResourceWriter { return statusWriter{c} }

// SubResource implements client.Client.
func (c *kube) SubResource(string) client.SubResourceClient { panic("not in the model") }

// Scheme implements client.Client.
func (c *kube) Scheme() *runtime.Scheme { return c.scheme }

// RESTMapper implements client.Client.
func (c *kube) RESTMapper() meta.RESTMapper { return mapper(c.scheme) }

// GroupVersionKindFor implements client.Client.
func (c *kube) GroupVersionKindFor(o runtime.Object) (schema.GroupVersionKind, error) {
	return apiutil.GVKForObject(o, c.scheme)
}

// IsObjectNamespaced implements client.Client.
func (c *kube) IsObjectNamespaced(runtime.Object) (bool, error) { return true, nil }

// statusWriter writes the status subresource.
type statusWriter struct{ c *kube }

// Create implements client.SubResourceWriter.
func (w statusWriter) Create(context.Context, client.Object, client.Object, ...client.SubResourceCreateOption) error {
	return errors.New("not in the model")
}

// Update implements client.SubResourceWriter.
func (w statusWriter) Update(ctx context.Context, o client.Object, _ ...client.SubResourceUpdateOption) error {
	return w.c.do(ctx, "update status", o, func() error { return w.c.update(o, true) })
}

// Patch implements client.SubResourceWriter.
func (w statusWriter) Patch(ctx context.Context, o client.Object, patch client.Patch, _ ...client.SubResourcePatchOption) error {
	return w.c.do(ctx, "patch status", o, func() error { return w.c.patch(o, patch, true) })
}

// Apply implements client.SubResourceWriter.
func (w statusWriter) Apply(context.Context, runtime.ApplyConfiguration, ...client.SubResourceApplyOption) error {
	return errors.New("not in the model")
}

// live reads from the API server.
type live struct {
	server *apiServer
	killed *atomic.Bool
}

// Get implements client.Reader.
func (l live) Get(_ context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if l.killed.Load() {
		return errKilled
	}
	have := l.server.get(kindOf(into), name)
	if have == nil {
		return apierrors.NewNotFound(resourceOf(kindOf(into)), name.Name)
	}
	write(into, have)
	return nil
}

// List implements client.Reader.
func (l live) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if l.killed.Load() {
		return errKilled
	}
	if _, ok := list.(*unstructured.UnstructuredList); ok {
		return fmt.Errorf("not in the model: %T", list)
	}
	var options client.ListOptions
	options.ApplyOptions(opts)
	var found []runtime.Object
	for _, o := range l.server.list(itemOf(list)) {
		if (options.Namespace == "" || options.Namespace == o.GetNamespace()) &&
			(options.LabelSelector == nil || options.LabelSelector.Matches(labelsOf(o))) {
			found = append(found, copied(o))
		}
	}
	return meta.SetList(list, found)
}

// mapper returns a RESTMapper with the kinds of the scheme.
func mapper(scheme *runtime.Scheme) meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for gvk, t := range scheme.AllKnownTypes() {
		if reflect.PointerTo(t).Implements(reflect.TypeFor[client.Object]()) {
			m.Add(gvk, meta.RESTScopeNamespace)
		}
	}
	return m
}
