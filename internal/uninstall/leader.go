// Whether a MIC is running.

package uninstall

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// LeaderError is the error while a MIC leads: it would undo the cleanup.
type LeaderError struct{ Holder, Kind, Namespace, Name string }

// Error names the leader and what to do.
func (e *LeaderError) Error() string {
	return fmt.Sprintf("mic %s leads (%s %s/%s) and would undo the work: "+
		"uninstall it or scale it to 0 first, or use --force",
		e.Holder, e.Kind, e.Namespace, e.Name)
}

// Leaders finds out whether a MIC leads in any namespace. It may be used concurrently.
//
// The times in a lock are those of the clock of MIC's machine, so they are not compared with this
// machine's. A MIC is alive if it renews its lock within the lock's duration. A lock that is not
// renewed for its duration, by this machine's clock, is free until it changes.
type Leaders struct {
	Reader client.Reader
	// Lease is the name of the lock.
	Lease string
	// Now and Wait are this machine's clock. Wait ends early, with an error, when the context does.
	Now  func() time.Time
	Wait func(context.Context, time.Duration) error
	// Waiting, if set, is called before a lock is observed for that duration.
	Waiting func(lock *LeaderError, duration time.Duration)

	mu   sync.Mutex
	seen map[LeaderError]observation
}

// observation is the last state of a lock.
type observation struct {
	state   string
	since   time.Time // when it was first seen
	renewed bool      // another state was seen before it
}

// lock is the state of a lock that has a holder.
type lock struct {
	LeaderError // without the holder: the lock's own name
	holder      string
	state       string // changes with each renewal
	duration    time.Duration
}

// pollInterval is the time between two reads of a lock. A MIC renews its lock after a quarter of
// the duration, which is two seconds or more.
const pollInterval = time.Second

// Check returns a *LeaderError if a MIC leads. The first check of a lock with a holder takes until
// the holder renews it, and at most the lock's duration.
func (l *Leaders) Check(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		locks, err := l.read(ctx)
		if err != nil {
			return fmt.Errorf("find out whether a mic leads: %w", err)
		}
		undecided := false
		for i := range locks {
			alive, known := l.observe(&locks[i])
			if alive {
				locks[i].Holder = locks[i].holder
				return &locks[i].LeaderError
			}
			undecided = undecided || !known
		}
		if !undecided {
			return nil
		}
		if err := l.Wait(ctx, pollInterval); err != nil {
			return err
		}
	}
}

// observe reports whether the holder of a lock is alive, and whether that is known yet.
func (l *Leaders) observe(k *lock) (alive, known bool) {
	if l.seen == nil {
		l.seen = map[LeaderError]observation{}
	}
	now := l.Now()
	last, ok := l.seen[k.LeaderError]
	if !ok || last.state != k.state {
		last = observation{state: k.state, since: now, renewed: ok}
		l.seen[k.LeaderError] = last
		if !ok && l.Waiting != nil {
			held := k.LeaderError
			held.Holder = k.holder
			l.Waiting(&held, k.duration)
		}
	}
	over := now.Sub(last.since) > k.duration
	return last.renewed && !over, last.renewed || over
}

// read returns the locks that have a holder: Leases, and the Endpoints of v1.8.17.
func (l *Leaders) read(ctx context.Context) ([]lock, error) {
	var locks []lock
	err := each(ctx, l.Reader, &coordinationv1.LeaseList{}, func(lease *coordinationv1.Lease) {
		if k, held := lockOf("Lease", lease, resourcelock.LeaseSpecToLeaderElectionRecord(&lease.Spec)); held {
			locks = append(locks, k)
		}
	}, named(l.Lease))
	if err != nil {
		return nil, err
	}
	endpoints := &metav1.PartialObjectMetadataList{}
	endpoints.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("EndpointsList"))
	err = each(ctx, l.Reader, endpoints, func(o *metav1.PartialObjectMetadata) {
		var record resourcelock.LeaderElectionRecord
		text, ok := o.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
		if !ok || json.Unmarshal([]byte(text), &record) != nil {
			return
		}
		if k, held := lockOf("Endpoints", o, &record); held {
			locks = append(locks, k)
		}
	}, named(l.Lease))
	return locks, err
}

// lockOf returns the lock, and whether it has a holder.
func lockOf(kind string, o metav1.Object, record *resourcelock.LeaderElectionRecord) (lock, bool) {
	if record.HolderIdentity == "" || record.RenewTime.IsZero() {
		return lock{}, false
	}
	return lock{
		LeaderError: LeaderError{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()},
		holder:      record.HolderIdentity,
		state:       fmt.Sprint(o.GetUID(), record.HolderIdentity, record.LeaderTransitions, record.RenewTime.UnixMicro()),
		duration:    time.Duration(record.LeaseDurationSeconds) * time.Second,
	}, true
}
