// Doing what a plan says.

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

// Cleaner carries a plan out.
type Cleaner struct {
	Client client.Client
	// Cloud detaches identities; nil where there is no way to Azure.
	Cloud Cloud
	// Guard is asked before every step that others could undo or be hurt by; its
	// error stops the work.
	Guard func(context.Context) error
	// Wait waits, or ends with the context.
	Wait func(context.Context, time.Duration) error
	// Done hears of every row that is done. It is not called twice at a time.
	Done func(Row)

	mu sync.Mutex
}

// How much is done at the same time: objects of the API server, and node groups.
const (
	writers = 20
	groups  = 4
)

// Run does what the plan says. What fails does not hold up the rest; the errors
// are joined.
func (c *Cleaner) Run(ctx context.Context, p Plan) error {
	if err := c.Guard(ctx); err != nil {
		return err
	}
	failed := &failures{}
	work := errgroup.Group{}
	work.SetLimit(writers)
	for _, a := range p.Assigned {
		work.Go(func() error {
			failed.note(c.deleteAssigned(ctx, a))
			return nil
		})
	}
	_ = work.Wait()
	work = errgroup.Group{}
	work.SetLimit(groups)
	for _, l := range p.Ledgers {
		work.Go(func() error {
			failed.note(c.settle(ctx, l))
			return nil
		})
	}
	_ = work.Wait()
	for _, o := range p.Objects {
		failed.note(c.deleteObject(ctx, o))
	}
	return failed.err()
}

// deleteAssigned deletes an assigned identity and then lets go of it. Cut off in
// between, it is being deleted, and the next run lets go.
func (c *Cleaner) deleteAssigned(ctx context.Context, a Assigned) error {
	object := a.Object.DeepCopy()
	name := client.ObjectKeyFromObject(object)
	if object.DeletionTimestamp.IsZero() {
		err := c.Client.Delete(ctx, object, client.Preconditions{UID: &object.UID})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or another of that name is there by now
			return nil
		}
		if err != nil {
			return fmt.Errorf("delete assigned identity %s: %w", name, err)
		}
	}
	others, err := c.release(ctx, object)
	if err != nil {
		return fmt.Errorf("take the finalizer off assigned identity %s: %w", name, err)
	}
	if len(others) > 0 {
		return fmt.Errorf("assigned identity %s is held by finalizers that are not podid's: %s", name, strings.Join(others, ", "))
	}
	c.done(Row{"delete", "AzureAssignedIdentity", object.Namespace, object.Name, a.Reason})
	return nil
}

// release takes our finalizer off, and returns those that stay.
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

// failures collects errors of work that is done at the same time.
type failures struct {
	mu   sync.Mutex
	errs []error
	more int
}

// mostTold bounds what is kept: where one object is refused, thousands may be.
const mostTold = 10

func (f *failures) note(err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.errs) == mostTold {
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
