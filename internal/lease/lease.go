// Package lease is the Lease that MICs compete for, as client-go's leader elector
// sees it (resourcelock.Interface).
//
// The elector decides by its own rules; this is what it reads and writes. It looks
// five times a second, so that a standby takes over at once when a leader leaves or
// dies, and that costs the API server nothing:
//
//   - What it reads comes from memory. Run keeps that up to date: a read, then a
//     watch of this one object, and a read again when the watch ends or is silent
//     although somebody should have renewed.
//   - Of what a leader writes, only one renewal in a quarter of the duration goes out,
//     and its elector rests in between.
//
// Two leaders at a time are kept out by three rules, of which client-go has the first:
//
//   - A write names the version that the elector last saw, never one that came in
//     since. On an old memory it fails with a conflict, and then nothing is handed
//     out of memory before the API server has been asked again.
//   - A leader whose last successful write began three quarters of the duration ago is
//     told to stop at that moment (Config.Lost), whatever the elector is waiting for. A
//     standby waits for the whole duration, from when it saw that write, which is later.
//   - A leader that sees another holder, or no Lease, is told to stop at once. Having
//     been told, it writes no more, and so releases nothing that may be another's.
package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Leases is what is asked of the API server, in the Lease's namespace.
type Leases interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*coordinationv1.Lease, error)
	Create(ctx context.Context, lease *coordinationv1.Lease, o metav1.CreateOptions) (*coordinationv1.Lease, error)
	Update(ctx context.Context, lease *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// Times are derived from how long the Lease is good for without being renewed.
type Times struct {
	// Duration is that, in whole seconds, as the Lease tells it.
	Duration time.Duration
	// GiveUp is how long after its last renewal a leader stops.
	GiveUp time.Duration
	// Tick is how often the elector looks, at most times 2.2 on a standby.
	Tick time.Duration

	renew time.Duration // between two renewals
	limit time.Duration // of one request
}

// TimesOf are the times for a duration. Renewing every quarter and giving up after
// three, a leader has tried at least twice, on connections of their own.
func TimesOf(duration time.Duration) Times {
	d := duration.Truncate(time.Second)
	return Times{Duration: d, GiveUp: d * 3 / 4, Tick: 200 * time.Millisecond, renew: d / 4, limit: d * 3 / 16}
}

// Config is what a Lock needs.
type Config struct {
	Leases                    Leases
	Namespace, Name, Identity string
	Times                     Times
	// Lost is called once, when a leader must stop at once, and why. It must not wait.
	Lost func(error)
	// Asked takes how each request to the API server went: nil also for answers
	// such as a conflict.
	Asked func(error)
}

// Lock is for one elector and one term: once lost, it stays lost.
type Lock struct {
	config Config
	again  chan struct{} // tells Run to read the Lease now

	mu     sync.Mutex
	known  bool                  // newest may be handed out: the API server was asked since the last failure
	newest *coordinationv1.Lease // nil: there is none
	news   chan struct{}         // closed when known becomes true
	seen   *coordinationv1.Lease // what the elector saw last, the only version that it may overwrite

	leading bool
	renewed time.Time   // when the last write that succeeded began
	written time.Time   // when it ended
	fence   *time.Timer // runs out when the leader must stop
	lost    error
}

// errNotLeading is why a lost Lock writes nothing.
var errNotLeading = errors.New("the Lease is lost")

// New makes the Lock of a term. Nothing happens before Run.
func New(config Config) *Lock {
	return &Lock{config: config, again: make(chan struct{}, 1), news: make(chan struct{})}
}

// Identity is resourcelock.Interface.
func (l *Lock) Identity() string { return l.config.Identity }

// Describe is resourcelock.Interface.
func (l *Lock) Describe() string { return l.config.Namespace + "/" + l.config.Name }

// RecordEvent is resourcelock.Interface. The log tells who leads.
func (*Lock) RecordEvent(string) {}

// Get is resourcelock.Interface. It answers from memory, or waits until the API
// server has been asked. One that is lost answers at once: it writes nothing any more.
func (l *Lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	for {
		l.mu.Lock()
		answer, news := l.known || l.lost != nil, l.news
		if l.known {
			l.seen = l.newest
		}
		lease := l.seen
		l.mu.Unlock()
		if answer {
			return record(lease, l.config.Name)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("read Lease %s: %w", l.Describe(), ctx.Err())
		}
	}
}

// Create is resourcelock.Interface.
func (l *Lock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.write(ctx, r, func(ctx context.Context, spec coordinationv1.LeaseSpec) (*coordinationv1.Lease, error) {
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: l.config.Namespace, Name: l.config.Name}, Spec: spec}
		return l.config.Leases.Create(ctx, lease, metav1.CreateOptions{})
	})
}

// Update is resourcelock.Interface. A renewal that comes before its time succeeds
// without being written, one look of the elector before it is due: a leader does not
// wake up in between.
func (l *Lock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	l.mu.Lock()
	seen := l.seen
	age := time.Since(l.renewed)
	early := l.leading && l.lost == nil && r.HolderIdentity == l.config.Identity && age < l.config.Times.renew
	l.mu.Unlock()
	if early {
		rest(ctx, l.config.Times.renew-l.config.Times.Tick-age)
		return nil
	}
	if seen == nil {
		return fmt.Errorf("update Lease %s: it was never read", l.Describe())
	}
	return l.write(ctx, r, func(ctx context.Context, spec coordinationv1.LeaseSpec) (*coordinationv1.Lease, error) {
		lease := seen.DeepCopy()
		lease.Spec = spec
		return l.config.Leases.Update(ctx, lease, metav1.UpdateOptions{})
	})
}

// rest waits, or until the context ends, which the elector sees for itself. Should the
// Lease be lost meanwhile, Config.Lost has told so; there is nothing to add.
func rest(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// write writes, unless the Lease was lost.
func (l *Lock) write(
	ctx context.Context, r resourcelock.LeaderElectionRecord,
	send func(context.Context, coordinationv1.LeaseSpec) (*coordinationv1.Lease, error),
) error {
	if l.isLost() {
		if r.HolderIdentity == "" {
			return nil // there is nothing to release
		}
		<-ctx.Done() // nothing to do for the elector but to wait for its end
		return errNotLeading
	}
	bounded, cancel := context.WithTimeout(ctx, l.config.Times.limit)
	defer cancel()
	began := time.Now()
	lease, err := send(bounded, resourcelock.LeaderElectionRecordToLeaseSpec(&r))
	l.asked(err)

	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.forget()
		return fmt.Errorf("write Lease %s: %w", l.Describe(), err)
	}
	l.newest, l.seen = lease, lease
	l.renewed, l.written = began, time.Now()
	l.remember()
	l.leading = r.HolderIdentity == l.config.Identity && l.lost == nil
	l.guard()
	return nil
}

// guard sets the fence of a leader anew, and takes that of others away.
func (l *Lock) guard() {
	if l.fence != nil {
		l.fence.Stop()
		l.fence = nil
	}
	if !l.leading {
		return
	}
	renewed := l.renewed
	l.fence = time.AfterFunc(l.config.Times.GiveUp-time.Since(renewed), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.leading && l.renewed.Equal(renewed) { // else it was renewed while this began to run
			l.lose(fmt.Errorf("the Lease %s was not renewed for %v", l.Describe(), l.config.Times.GiveUp))
		}
	})
}

// lose ends leading for good. The caller holds the lock.
func (l *Lock) lose(why error) {
	if l.lost != nil {
		return
	}
	l.lost = why
	l.leading = false
	l.guard()
	l.config.Lost(why)
}

func (l *Lock) isLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost != nil
}

// forget hands out nothing more before Run has read the Lease again, and asks it to.
// The caller holds the lock.
func (l *Lock) forget() {
	if l.known {
		l.known, l.news = false, make(chan struct{})
	}
	select {
	case l.again <- struct{}{}:
	default: // told already
	}
}

// remember lets newest be handed out. The caller holds the lock.
func (l *Lock) remember() {
	if !l.known {
		l.known = true
		close(l.news)
	}
}
