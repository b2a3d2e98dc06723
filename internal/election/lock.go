// The lock that the elector reads and writes.

package election

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// errNoWrite is returned to the elector after the Lease was lost.
var errNoWrite = errors.New("this process no longer holds the Lease")

// lock is a LeaseLock that ends the leadership in time. The elector uses it from one goroutine.
type lock struct {
	resourcelock.Interface
	config Config
	lost   chan struct{} // closed when a leader loses the Lease

	mu       sync.Mutex
	leading  bool
	finished bool        // the leader's function has returned
	renewed  time.Time   // start of the last successful write
	timer    *time.Timer // expires when the leader must stop
	reason   error       // why the Lease was lost
}

// Get implements resourcelock.Interface.
func (l *lock) Get(ctx context.Context) (record *resourcelock.LeaderElectionRecord, raw []byte, err error) {
	err = l.request(ctx, func(ctx context.Context) (err error) {
		record, raw, err = l.Interface.Get(ctx)
		return err
	})
	if err == nil && record.HolderIdentity != l.Identity() {
		l.lose(fmt.Errorf("lost the Lease %s: %q holds it", l.Describe(), record.HolderIdentity))
	}
	return record, raw, err
}

// Create implements resourcelock.Interface.
func (l *lock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.write(ctx, r, l.Interface.Create)
}

// Update implements resourcelock.Interface. The elector renews as often as others try to get the
// Lease. Most of these renewals are not sent.
func (l *lock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if r.HolderIdentity == l.Identity() && l.fresh() {
		return nil
	}
	return l.write(ctx, r, l.Interface.Update)
}

// write sends a record unless the Lease was lost, and extends the time that the leader has.
func (l *lock) write(
	ctx context.Context, r resourcelock.LeaderElectionRecord, send func(context.Context, resourcelock.LeaderElectionRecord) error,
) error {
	if r.HolderIdentity == "" && l.held() {
		l.lose(l.notRenewed()) // the elector gives up and releases while the leader still works
	}
	if l.isLost() {
		return errNoWrite
	}
	began := time.Now()
	err := l.request(ctx, func(ctx context.Context) error { return send(ctx, r) })
	if err == nil && r.HolderIdentity == l.Identity() {
		l.extend(began)
	}
	return err
}

// fresh reports whether the last renewal is so recent that the next one can wait.
func (l *lock) fresh() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading && time.Since(l.renewed) < l.config.renewInterval()
}

// request bounds a request and reports its outcome.
func (l *lock) request(ctx context.Context, send func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, l.config.requestTimeout())
	defer cancel()
	err := send(ctx)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		l.config.Report(nil)
	case !errors.Is(err, context.Canceled):
		l.config.Report(err)
	}
	return err
}

// extend records a renewal that began at that time.
func (l *lock) extend(began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reason != nil || l.finished {
		return
	}
	l.leading, l.renewed = true, began
	left := l.config.maxAge() - time.Since(began)
	if l.timer == nil {
		l.timer = time.AfterFunc(left, l.expire)
		return
	}
	l.timer.Reset(left)
}

// expire ends the leadership unless a renewal came at the last moment.
func (l *lock) expire() {
	l.mu.Lock()
	late := time.Since(l.renewed) >= l.config.maxAge()
	l.mu.Unlock()
	if late {
		l.lose(l.notRenewed())
	}
}

func (l *lock) notRenewed() error {
	return fmt.Errorf("lost the Lease %s: it could not be renewed in time", l.Describe())
}

// lose ends the leadership for good. It does nothing while this process does not lead.
func (l *lock) lose(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leading {
		return
	}
	l.leading, l.reason = false, reason
	l.timer.Stop()
	close(l.lost)
}

func (l *lock) isLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reason != nil
}

// held reports whether this process holds the Lease and its function may still run.
func (l *lock) held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading
}

// finish allows the release of the Lease. It returns the reason if the Lease was lost before.
func (l *lock) finish() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading, l.finished = false, true
	if l.timer != nil {
		l.timer.Stop()
	}
	return l.reason
}
