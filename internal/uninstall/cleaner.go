// Carrying out a plan.

package uninstall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/podid-io/podid/api/v1"
)

// Cleaner carries out a plan.
type Cleaner struct {
	Client client.Client
	// Cloud detaches identities; nil without access to Azure.
	Cloud Cloud
	// Guard is called before every step that a running MIC could undo or be harmed by. Its error
	// stops the work.
	Guard func(context.Context) error
	// Wait waits until the time is over or the context has ended.
	Wait func(context.Context, time.Duration) error
	// Done is called for every row that is done, never concurrently.
	Done func(Row)

	mu sync.Mutex
}

// How many objects and node groups are worked on at once.
const (
	parallelObjects = 20
	parallelGroups  = 4
)

// Run carries out the plan. A failure does not stop the rest; the errors are joined.
func (c *Cleaner) Run(ctx context.Context, p Plan) error {
	if err := c.Guard(ctx); err != nil {
		return err
	}
	failed := &failures{}
	work := errgroup.Group{}
	work.SetLimit(parallelObjects)
	for _, a := range p.Assigned {
		work.Go(func() error {
			failed.add(c.deleteAssigned(ctx, a))
			return nil
		})
	}
	_ = work.Wait()
	work = errgroup.Group{}
	work.SetLimit(parallelGroups)
	for _, l := range p.Ledgers {
		work.Go(func() error {
			failed.add(c.settle(ctx, l))
			return nil
		})
	}
	_ = work.Wait()
	for _, o := range p.Objects {
		failed.add(c.deleteObject(ctx, o))
	}
	return failed.err()
}

// deleteAssigned deletes an assigned identity and then removes podid's finalizer. If it is
// interrupted in between, the next run removes the finalizer.
func (c *Cleaner) deleteAssigned(ctx context.Context, a Assigned) error {
	object := a.Object.DeepCopy()
	name := client.ObjectKeyFromObject(object)
	if object.DeletionTimestamp.IsZero() {
		err := c.Client.Delete(ctx, object, client.Preconditions{UID: &object.UID})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or replaced by another of that name
			return nil
		}
		if err != nil {
			return fmt.Errorf("delete assigned identity %s: %w", name, err)
		}
	}
	others, err := c.release(ctx, object)
	if err != nil {
		return fmt.Errorf("remove the finalizer of assigned identity %s: %w", name, err)
	}
	if len(others) > 0 {
		return fmt.Errorf("assigned identity %s has finalizers that are not podid's: %s",
			name, strings.Join(others, ", "))
	}
	c.done(Row{"delete", "AzureAssignedIdentity", object.Namespace, object.Name, a.Reason})
	return nil
}

// release removes podid's finalizer, and returns the others.
func (c *Cleaner) release(ctx context.Context, object *v1.AzureAssignedIdentity) (others []string, err error) {
	uid := object.UID
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if !slices.Contains(object.Finalizers, v1.Finalizer) {
			others = object.Finalizers
			return nil
		}
		before := object.DeepCopy()
		object.Finalizers = slices.DeleteFunc(object.Finalizers, func(f string) bool { return f == v1.Finalizer })
		others = object.Finalizers
		err := c.Client.Patch(ctx, object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		if !apierrors.IsConflict(err) {
			return client.IgnoreNotFound(err)
		}
		if gone := c.Client.Get(ctx, client.ObjectKeyFromObject(object), object); gone != nil {
			others = nil
			return client.IgnoreNotFound(gone)
		}
		if object.UID != uid {
			others = nil
			return nil
		}
		return err
	})
	return others, err
}

func (c *Cleaner) deleteObject(ctx context.Context, o Object) error {
	version := o.Object.GetResourceVersion()
	err := c.Client.Delete(ctx, o.Object, client.Preconditions(metav1.Preconditions{ResourceVersion: &version}))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete %s %s: %w", o.Kind, client.ObjectKeyFromObject(o.Object), err)
	}
	c.done(Row{"delete", o.Kind, o.Object.GetNamespace(), o.Object.GetName(), o.Reason})
	return nil
}

func (c *Cleaner) done(row Row) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Done(row)
}

// failures collects the errors of concurrent work.
type failures struct {
	mu   sync.Mutex
	errs []error
	more int
}

// maxErrors bounds the errors that are kept: if one object is refused, thousands may be.
const maxErrors = 10

func (f *failures) add(err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.errs) == maxErrors {
		f.more++
		return
	}
	f.errs = append(f.errs, err)
}

func (f *failures) err() error {
	if f.more > 0 {
		return errors.Join(append(f.errs, fmt.Errorf("and %d more failures", f.more))...)
	}
	return errors.Join(f.errs...)
}
