// Package fair limits the rate and the concurrency of operations, and shares them between
// namespaces and their pods. A namespace with many requests waits behind one with few, however many
// pods it has, and so does a pod within its namespace.
//
// The metadata service allows a machine 20 token requests a second and 5 at once. Without this
// package, one pod that requests tokens in a loop would block all others on the node.
package fair

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/podid-io/podid/internal/turns"
)

// ErrBusy means that the queue has no place for an operation: its caller has too many waiting, or
// the queue is full and its namespace has the most places.
var ErrBusy = errors.New("too many requests are waiting")

// Cooldown is the error while StayAway blocks all operations. Its value is the time left.
type Cooldown time.Duration

// Error implements error.
func (c Cooldown) Error() string { return "no operations for another " + time.Duration(c).String() }

// RetryAfter returns the time left.
func (c Cooldown) RetryAfter() time.Duration { return time.Duration(c) }

// Config has the bounds of a Limiter. All must be positive.
type Config struct {
	// Rate is how many operations start a second in the long run. Burst is how many may start
	// together after a pause. At most Rate+Burst start within one second.
	Rate  float64
	Burst int
	// Concurrent bounds the operations in flight in all, PerCaller those of one caller. A quarter
	// of Concurrent, at least one, is reserved for namespaces with fewer in flight than there are
	// free.
	Concurrent, PerCaller int
	// Waiting bounds the operations waiting in all, WaitingPerCaller those of one caller. Beyond
	// the latter, Acquire refuses at once. Beyond the former, the newest operation of the caller
	// with the most is evicted, in the namespace with the most.
	Waiting, WaitingPerCaller int
	// Background is the caller of operations that no request waits for, or "". They start only
	// while no other can, one at a time, and leave half of Burst to the others. But one starts
	// after backgroundShare others in any case.
	Background string
}

const (
	// maxCooldown bounds how long one StayAway lasts.
	maxCooldown = 2 * time.Minute
	// backgroundShare is after how many other operations one of the background starts.
	backgroundShare = 15
)

// Limiter starts operations within its bounds. Namespaces with operations waiting take turns, and
// so do the callers of a namespace. The operations of one caller start in order. A caller is named
// namespace/name. A name without a slash is a namespace of its own. Limiter is safe for concurrent
// use.
//
// mu guards all state. pump starts what may start, and sets the timer if only the rate prevents
// that.
type Limiter struct {
	cfg Config

	mu         sync.Mutex
	waiting    *turns.Queue[*ticket]
	active     int
	callers    map[string]int // operations in flight
	namespaces map[string]int // the same
	passed     int            // operations started while the background waits
	tokens     float64        // of the rate, at most Burst
	filled     time.Time
	timer      *time.Timer // of the rate, if nothing else prevents a start
	cooldown   time.Time   // nothing starts until then
}

// entry is a ticket's place in the queue.
type entry = turns.Entry[*ticket]

// ticket is one operation. called closes when it starts, or when it is refused with err.
type ticket struct {
	caller, namespace string
	called            chan struct{}
	err               error
}

func (t *ticket) refuse(err error) {
	t.err = err
	close(t.called)
}

// New returns a limiter with nothing in flight.
func New(cfg Config) *Limiter {
	return &Limiter{
		cfg: cfg, waiting: turns.NewQueue[*ticket](cfg.Waiting, cfg.WaitingPerCaller),
		callers: map[string]int{}, namespaces: map[string]int{}, tokens: float64(cfg.Burst), filled: time.Now(),
	}
}

// Acquire waits until an operation of the caller may start, and returns the function to call when
// it has ended. The error is ErrBusy, a Cooldown, or that of ctx.
func (l *Limiter) Acquire(ctx context.Context, caller string) (release func(), err error) {
	t := &ticket{caller: caller, called: make(chan struct{})}
	t.namespace, _, _ = strings.Cut(caller, "/")
	place, err := l.enqueue(t)
	if err != nil {
		return nil, err
	}
	var once sync.Once
	release = func() { once.Do(func() { l.release(t) }) }
	select {
	case <-t.called:
		if t.err != nil {
			return nil, t.err
		}
		return release, nil
	case <-ctx.Done():
		l.abandon(place)
		return nil, context.Cause(ctx)
	}
}

func (l *Limiter) enqueue(t *ticket) (*entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.coolingDown(); err != nil {
		return nil, err
	}
	if t.caller == l.cfg.Background && l.waiting.Next(l.inBackground) == nil {
		l.passed = 0
	}
	place, evicted := l.waiting.Push(t.namespace, t.caller, t)
	if evicted != nil {
		evicted.Item.refuse(ErrBusy)
	}
	if place == nil {
		return nil, ErrBusy
	}
	l.pump()
	return place, nil
}

// pump starts what may start.
func (l *Limiter) pump() {
	l.fill()
	for l.active < l.cfg.Concurrent {
		next, need := l.next()
		if next == nil {
			return
		}
		if l.tokens < need {
			l.wakeUp(need)
			return
		}
		l.tokens--
		l.start(next)
	}
}

// next returns the operation that starts next, and how many tokens it needs. The background comes
// last, or first if its share is due.
func (l *Limiter) next() (*entry, float64) {
	idle := func(e *entry) bool { return l.inBackground(e) && l.callers[e.Caller] == 0 }
	if l.passed >= backgroundShare {
		if e := l.waiting.Next(idle); e != nil {
			return e, 1
		}
	}
	if e := l.waiting.Next(l.mayStart); e != nil {
		return e, 1
	}
	return l.waiting.Next(idle), 1 + float64(l.cfg.Burst/2)
}

// mayStart reports whether an operation that is not in the background may start as far as
// concurrency goes.
func (l *Limiter) mayStart(e *entry) bool {
	free := l.cfg.Concurrent - l.active
	kept := max(1, l.cfg.Concurrent/4)
	return !l.inBackground(e) && l.callers[e.Caller] < l.cfg.PerCaller &&
		(free > kept || l.namespaces[e.Namespace] < free)
}

func (l *Limiter) inBackground(e *entry) bool {
	return e.Caller == l.cfg.Background && l.cfg.Background != ""
}

// StayAway blocks all operations for a while, two minutes at most, and refuses those that wait. It
// has no effect if it would end before the current cooldown.
func (l *Limiter) StayAway(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d <= 0 {
		return
	}
	if until := time.Now().Add(min(d, maxCooldown)); until.After(l.cooldown) {
		l.cooldown = until
	}
	err := l.coolingDown()
	for _, e := range l.waiting.Clear() {
		e.Item.refuse(err)
	}
}

// coolingDown returns a Cooldown, or nil. The lock is held.
func (l *Limiter) coolingDown() error {
	if left := time.Until(l.cooldown); left > 0 {
		return Cooldown(left)
	}
	return nil
}

// start starts an operation whose turn it is.
func (l *Limiter) start(e *entry) {
	if l.inBackground(e) {
		l.passed = 0
	} else {
		l.passed++
	}
	l.waiting.Take(e)
	l.active++
	l.callers[e.Caller]++
	l.namespaces[e.Namespace]++
	close(e.Item.called)
}

func (l *Limiter) fill() {
	now := time.Now()
	l.tokens = math.Min(float64(l.cfg.Burst), l.tokens+now.Sub(l.filled).Seconds()*l.cfg.Rate)
	l.filled = now
}

// wakeUp sets the timer to when there are enough tokens. It replaces a timer that is set for later,
// for the background.
func (l *Limiter) wakeUp(need float64) {
	if l.timer != nil {
		l.timer.Stop()
	}
	// One microsecond more, since rounding could fire the timer too early.
	wait := time.Duration((need-l.tokens)/l.cfg.Rate*float64(time.Second)) + time.Microsecond
	l.timer = time.AfterFunc(wait, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.pump()
	})
}

func (l *Limiter) release(t *ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(t)
}

// end removes an operation that has ended and starts what may start now.
func (l *Limiter) end(t *ticket) {
	l.active--
	countDown(l.callers, t.caller)
	countDown(l.namespaces, t.namespace)
	l.pump()
}

func countDown(counts map[string]int, name string) {
	if counts[name]--; counts[name] <= 0 {
		delete(counts, name)
	}
}

// abandon removes an operation whose ctx ended: one that waits, or one that started at the same
// moment.
func (l *Limiter) abandon(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting.Remove(e) {
		l.pump()
		return
	}
	if e.Item.err == nil {
		l.end(e.Item)
	}
}
