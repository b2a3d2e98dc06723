// Package election runs a function in the one process that holds a Lease, with client-go's leader
// election.
//
// Its lock adds what keeps two leaders from overlapping where client-go alone does not:
//
//   - A leader stops once five sixths of the duration have passed since its last successful renewal
//     began, whatever request it is waiting for. Another process waits for the whole duration, from
//     the moment it observed that renewal.
//   - A leader that reads another holder's name stops at once, not at the renew deadline.
//   - A renewal is sent once a quarter of the duration has passed since the last one, not with
//     every attempt of the elector.
//   - The Lease is released only after the function has returned. A process that lost the Lease
//     never writes it again.
package election

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Config describes the Lease and this process as a candidate for it.
type Config struct {
	Client          coordinationv1.LeasesGetter
	Namespace, Name string
	// Identity is unique among the candidates. A process that restarts with the same identity
	// leads again without waiting.
	Identity string
	// Duration is how long the Lease is valid without a renewal. Fractions of a second are dropped.
	Duration time.Duration
	// Report is called with the outcome of every request to the API server. A conflict or a
	// missing Lease is not a failure.
	Report func(error)
}

// maxRetryPeriod lets another process take over within a second of a release: client-go adds up
// to 120 % of jitter.
const maxRetryPeriod = 400 * time.Millisecond

func (c Config) duration() time.Duration       { return c.Duration.Truncate(time.Second) }
func (c Config) maxAge() time.Duration         { return c.duration() * 5 / 6 }
func (c Config) renewDeadline() time.Duration  { return c.duration() * 3 / 4 }
func (c Config) requestTimeout() time.Duration { return c.duration() / 3 }
func (c Config) renewInterval() time.Duration  { return c.duration() / 4 }
func (c Config) retryPeriod() time.Duration    { return min(c.duration()/12, maxRetryPeriod) }

// Run waits for the Lease, calls lead, and releases the Lease when lead has returned. It returns
// the error of lead, or nil if ctx ended before this process led.
//
// If the Lease is lost, Run cancels lead's context and returns at once with the reason. The
// process must exit then, since another one may already lead.
func Run(ctx context.Context, config Config, lead func(context.Context) error) error {
	leading, stopLeading := context.WithCancelCause(ctx)
	defer stopLeading(nil)
	// The elector outlives ctx, to release the Lease last. The lock's Report replaces its log,
	// which repeats every failure several times a second.
	electing, stopElecting := context.WithCancel(logr.NewContext(context.WithoutCancel(ctx), logr.Discard()))
	defer stopElecting()

	lock := newLock(config)
	result := make(chan error, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: config.Name, ReleaseOnCancel: true,
		LeaseDuration: config.duration(), RenewDeadline: config.renewDeadline(), RetryPeriod: config.retryPeriod(),
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {
				if leading.Err() != nil {
					result <- nil
					return
				}
				result <- lead(leading)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("set up leader election: %w", err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		elector.Run(electing)
	}()

	select {
	case err = <-result:
	case <-lock.lost:
	case <-ctx.Done():
		if lock.held() {
			select {
			case err = <-result:
			case <-lock.lost:
			}
		}
	}
	if lost := lock.finish(); lost != nil {
		stopLeading(lost)
		return lost
	}
	stopElecting()
	<-stopped
	return err
}

// newLock returns the lock of one candidate.
func newLock(config Config) *lock {
	return &lock{
		Interface: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: config.Namespace, Name: config.Name},
			Client:     config.Client,
			LockConfig: resourcelock.ResourceLockConfig{Identity: config.Identity},
		},
		config: config, lost: make(chan struct{}),
	}
}
