// Package fair shares what is scarce between namespaces and their pods: so many operations at once,
// and so many a second. A namespace that asks for much waits behind one that asks for little, however
// many pods it has, and so does a pod within its namespace.
//
// The metadata service allows a machine 20 token requests a second and 5 at once. Without this, one
// pod that asks in a loop would take them from all others on the node.
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

// ErrBusy is the error of an operation for which there is no place to wait: the caller has too many
// waiting, or all places are taken and its namespace has most of them.
var ErrBusy = errors.New("too many requests are waiting")

// Away is the error while everybody has to stay away; it is how long still.
type Away time.Duration

// Error says it in words.
func (a Away) Error() string { return "to be left alone for " + time.Duration(a).String() }

// RetryAfter is when to come back, from now.
func (a Away) RetryAfter() time.Duration { return time.Duration(a) }

// Config are the bounds of a Limiter; all must be positive.
type Config struct {
	// Rate is operations started a second in the long run, Burst how many of
	// them may start together after a pause. In any one second at most
	// Rate+Burst start.
	Rate  float64
	Burst int
	// Concurrent is operations under way in all, PerCaller of one caller. A quarter of Concurrent, at
	// least one, is for namespaces that have fewer under way than there are free.
	Concurrent, PerCaller int
	// Waiting is operations waiting in all, WaitingPerCaller of one caller.
	// Beyond the latter, Acquire refuses at once. Beyond the former, the newest of the greediest caller
	// in the greediest namespace gives way.
	Waiting, WaitingPerCaller int
	// Background is the caller of operations that no request waits for. They begin
	// only while no other can, one at a time, and leave half of Burst to
	// the others; but one in backgroundShare begins even so. "" when there is none.
	Background string
}

const (
	// MaxAway bounds how long one StayAway lasts.
	MaxAway = 2 * time.Minute
	// backgroundShare is after how many operations of others one of the background begins.
	backgroundShare = 15
)

// Limiter lets operations begin. Namespaces with operations waiting take turns, and so do callers
// within a namespace; within a caller, first come is first served. A caller's name is
// namespace/name; one without a slash is a namespace of its own.
//
// All state is guarded by mu and changed by pump, which starts what may start
// and, when only the rate stands in the way, sets the timer to come back.
type Limiter struct {
	cfg Config

	mu         sync.Mutex
	waiting    *turns.Queue[*ticket]
	active     int
	callers    map[string]int // operations under way
	namespaces map[string]int // the same
	passed     int            // operations begun while the background waits
	tokens     float64        // of the rate, at most Burst
	filled     time.Time
	timer      *time.Timer // of the rate, when nothing else stands in the way
	away       time.Time   // nothing begins until then
}

// entry is a ticket's place among those that wait.
type entry = turns.Entry[*ticket]

// ticket is one operation. err is set before called closes; without
// it, the operation has begun.
type ticket struct {
	caller, namespace string
	called            chan struct{}
	err               error
}

func (t *ticket) refuse(err error) {
	t.err = err
	close(t.called)
}

// New returns a limiter with nothing under way.
func New(cfg Config) *Limiter {
	return &Limiter{
		cfg: cfg, waiting: turns.NewQueue[*ticket](cfg.Waiting, cfg.WaitingPerCaller),
		callers: map[string]int{}, namespaces: map[string]int{}, tokens: float64(cfg.Burst), filled: time.Now(),
	}
}

// Acquire waits until an operation of the caller may begin, and returns the
// function to call when it has ended. The error is ErrBusy, Away, or that
// of ctx.
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
	if err := l.isAway(); err != nil {
		return nil, err
	}
	if t.caller == l.cfg.Background && l.waiting.Next(l.inBackground) == nil {
		l.passed = 0
	}
	place, gaveWay := l.waiting.Push(t.namespace, t.caller, t)
	if gaveWay != nil {
		gaveWay.Item.refuse(ErrBusy)
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
			l.comeBack(need)
			return
		}
		l.tokens--
		l.start(next)
	}
}

// next is the operation that begins next, and how much of the rate there must be for it. The background
// comes last, or first when it has its share to get.
func (l *Limiter) next() (*entry, float64) {
	idle := func(e *entry) bool { return l.inBackground(e) && l.callers[e.Caller] == 0 }
	if l.passed >= backgroundShare {
		if e := l.waiting.Next(idle); e != nil {
			return e, 1
		}
	}
	if e := l.waiting.Next(l.mayBegin); e != nil {
		return e, 1
	}
	return l.waiting.Next(idle), 1 + float64(l.cfg.Burst/2)
}

// mayBegin reports whether an operation that is not in the background may begin, but for the rate.
func (l *Limiter) mayBegin(e *entry) bool {
	free := l.cfg.Concurrent - l.active
	kept := max(1, l.cfg.Concurrent/4)
	return !l.inBackground(e) && l.callers[e.Caller] < l.cfg.PerCaller && (free > kept || l.namespaces[e.Namespace] < free)
}

func (l *Limiter) inBackground(e *entry) bool {
	return e.Caller == l.cfg.Background && l.cfg.Background != ""
}

// StayAway lets nothing begin for a while, MaxAway at most, and sends away who
// waits. A shorter while than there is already changes nothing.
func (l *Limiter) StayAway(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d <= 0 {
		return
	}
	if until := time.Now().Add(min(d, MaxAway)); until.After(l.away) {
		l.away = until
	}
	err := l.isAway()
	for _, e := range l.waiting.Clear() {
		e.Item.refuse(err)
	}
}

// isAway is the error while everybody has to stay away. The lock is held.
func (l *Limiter) isAway() error {
	if left := time.Until(l.away); left > 0 {
		return Away(left)
	}
	return nil
}

// start begins an operation whose turn it is.
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

// comeBack sets the timer for when the rate allows an operation that needs so
// much of it. One that is set for later, for the background, is set again.
func (l *Limiter) comeBack(need float64) {
	if l.timer != nil {
		l.timer.Stop()
	}
	// A microsecond more, or rounding would bring us back just too early.
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

// end counts an operation that is over and starts what may start now.
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

// abandon takes back what ctx ended: a waiting operation, or one that was
// granted at the same moment.
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
