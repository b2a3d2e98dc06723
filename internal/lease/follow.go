// How the memory of the Lease is kept up to date.

package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The pauses between two rounds of a read and a watch. The longest is what a standby
// without the right to watch needs to notice a new state.
const (
	firstPause = 100 * time.Millisecond
	mostPause  = time.Second
)

// Run keeps what Get answers up to date until the context ends. It must outlive the
// elector, which releases the Lease last.
func (l *Lock) Run(ctx context.Context) {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.leading = false
		l.guard()
	}()
	pause, said := firstPause, ""
	for {
		began := time.Now()
		err := l.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			logr.FromContextOrDiscard(ctx).Info("cannot follow the Lease as it should be, reading it again and again", "reason", said)
		}
		if time.Since(began) > mostPause {
			pause = firstPause
		}
		if err == nil {
			said = ""
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause + rand.N(pause/4)): //nolint:gosec // only to spread the requests
		}
		pause = min(2*pause, mostPause)
	}
}

// follow is one round. It ends without an error when it is time for the next one.
func (l *Lock) follow(ctx context.Context) error {
	select {
	case <-l.again: // this read is the answer to it
	default:
	}
	lease, err := l.read(ctx)
	if err != nil || lease == nil {
		return err
	}
	w, err := l.config.Leases.Watch(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector(metav1.ObjectNameField, l.config.Name).String(),
		ResourceVersion: lease.ResourceVersion,
	})
	if err != nil {
		return fmt.Errorf("watch Lease %s: %w", l.Describe(), err)
	}
	defer w.Stop()
	// Whoever leads renews twice in that time.
	silence := time.NewTimer(l.config.Times.Duration / 2)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-silence.C:
			return nil
		case <-l.again:
			return nil
		case event, open := <-w.ResultChan():
			if !open {
				return nil
			}
			if err := l.take(event); err != nil {
				return err
			}
			silence.Reset(l.config.Times.Duration / 2)
		}
	}
}

// read asks the API server. nil without an error: there is no Lease.
func (l *Lock) read(ctx context.Context) (*coordinationv1.Lease, error) {
	bounded, cancel := context.WithTimeout(ctx, l.config.Times.limit)
	defer cancel()
	began := time.Now()
	lease, err := l.config.Leases.Get(bounded, l.config.Name, metav1.GetOptions{})
	if ctx.Err() != nil {
		return nil, nil //nolint:nilnil // the end; nobody looks at it
	}
	l.asked(err)
	if apierrors.IsNotFound(err) {
		lease, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Lease %s: %w", l.Describe(), err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.written.Before(began) { // else our own write knows better
		l.set(lease)
		l.remember()
	}
	return lease, nil
}

// take takes what the watch tells.
func (l *Lock) take(event watch.Event) error {
	lease, ok := event.Object.(*coordinationv1.Lease)
	if event.Type == watch.Error || !ok {
		return fmt.Errorf("watch Lease %s: %w", l.Describe(), apierrors.FromObject(event.Object))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !newer(lease, l.newest) {
		return nil
	}
	if event.Type == watch.Deleted {
		lease = nil
	}
	l.set(lease)
	return nil
}

// set takes a new state of the Lease, and loses it if that is so. The caller holds
// the lock.
func (l *Lock) set(lease *coordinationv1.Lease) {
	l.newest = lease
	if !l.leading {
		return
	}
	if lease == nil {
		l.lose(fmt.Errorf("somebody deleted the Lease %s", l.Describe()))
	} else if holder := holderOf(lease); holder != l.config.Identity {
		l.lose(fmt.Errorf("the Lease %s was taken by %q", l.Describe(), holder))
	}
}

// asked tells how a request went. An answer is an answer, whatever it says about
// this one Lease.
func (l *Lock) asked(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		err = nil
	}
	l.config.Asked(err)
}

// newer tells whether a is of later than b. What cannot be compared counts as new.
func newer(a, b *coordinationv1.Lease) bool {
	if b == nil {
		return true
	}
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err != nil || order > 0
}

func holderOf(lease *coordinationv1.Lease) string {
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// record is what the elector wants to know of a Lease. It compares the raw form
// to see whether somebody renewed: the spec as it is, to the microsecond.
func record(lease *coordinationv1.Lease, name string) (*resourcelock.LeaderElectionRecord, []byte, error) {
	if lease == nil {
		return nil, nil, apierrors.NewNotFound(schema.GroupResource{Group: coordinationv1.GroupName, Resource: "leases"}, name)
	}
	raw, err := json.Marshal(lease.Spec)
	if err != nil {
		return nil, nil, fmt.Errorf("read Lease %s: %w", name, err)
	}
	return resourcelock.LeaseSpecToLeaderElectionRecord(&lease.Spec), raw, nil
}
