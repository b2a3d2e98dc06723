// Package fair shares what is scarce between callers: so many operations at
// once, so many a second, and whoever asks for much waits behind whoever asks
// for little.
//
// The metadata service allows a machine 20 token requests a second and 5 at
// once; without this, one pod that asks in a loop would take them from all
// others on the node.
package fair

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

// ErrBusy says that too many operations wait already, of this caller or in all.
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
	// Concurrent is operations under way in all, PerCaller of one caller.
	Concurrent, PerCaller int
	// Waiting is operations waiting in all, WaitingPerCaller of one caller.
	// Beyond either, Acquire refuses at once.
	Waiting, WaitingPerCaller int
	// Background is the caller whose operations nobody waits for. They begin
	// only while nobody else's can, one at a time, and leave half of Burst to
	// the others. "" when there is none.
	Background string
}

// MaxAway bounds how long one StayAway lasts.
const MaxAway = 2 * time.Minute

// Limiter lets operations begin. Callers with operations waiting take turns;
// within a caller, first come is first served.
//
// All state is guarded by mu and changed by pump, which starts what may start
// and, when only the rate stands in the way, sets the timer to come back.
type Limiter struct {
	cfg Config

	mu      sync.Mutex
	turns   []*caller // callers with waiting operations, next in turn first
	callers map[string]*caller
	waiting int
	active  int
	tokens  float64 // of the rate, at most Burst
	filled  time.Time
	timer   *time.Timer // of the rate, when nothing else stands in the way
	away    time.Time   // nothing begins until then
}

// caller exists while it has operations waiting or under way.
type caller struct {
	name   string
	queue  []*ticket
	active int
}

// ticket is one operation that waits. away is set before called closes; without
// it, the operation has begun.
type ticket struct {
	called chan struct{}
	away   error
}

// New returns a limiter with nothing under way.
func New(cfg Config) *Limiter {
	return &Limiter{cfg: cfg, callers: map[string]*caller{}, tokens: float64(cfg.Burst), filled: time.Now()}
}

// Acquire waits until an operation of the caller may begin, and returns the
// function to call when it has ended. The error is ErrBusy at once, Away, or that
// of ctx.
func (l *Limiter) Acquire(ctx context.Context, name string) (release func(), err error) {
	l.mu.Lock()
	if err := l.isAway(); err != nil {
		l.mu.Unlock()
		return nil, err
	}
	c := l.callers[name]
	if l.waiting >= l.cfg.Waiting || c != nil && len(c.queue) >= l.cfg.WaitingPerCaller {
		l.mu.Unlock()
		return nil, ErrBusy
	}
	if c == nil {
		c = &caller{name: name}
		l.callers[name] = c
	}
	if len(c.queue) == 0 {
		l.turns = append(l.turns, c)
	}
	t := &ticket{called: make(chan struct{})}
	c.queue = append(c.queue, t)
	l.waiting++
	l.pump()
	l.mu.Unlock()

	var once sync.Once
	release = func() { once.Do(func() { l.release(c) }) }
	select {
	case <-t.called:
		if t.away != nil {
			return nil, t.away
		}
		return release, nil
	case <-ctx.Done():
		l.abandon(c, t)
		return nil, context.Cause(ctx)
	}
}

// pump starts what may start.
func (l *Limiter) pump() {
	l.fill()
	for l.active < l.cfg.Concurrent {
		i := l.next()
		if i < 0 {
			return
		}
		if need := l.need(l.turns[i]); l.tokens < need {
			l.comeBack(need)
			return
		}
		l.tokens--
		l.start(i)
	}
}

// next is the place in turns of the first caller that may start one more
// operation, -1 when there is none. The background comes last.
func (l *Limiter) next() int {
	background := -1
	for i, c := range l.turns {
		switch {
		case l.inBackground(c):
			if c.active == 0 {
				background = i
			}
		case c.active < l.cfg.PerCaller:
			return i
		}
	}
	return background
}

func (l *Limiter) inBackground(c *caller) bool {
	return c.name == l.cfg.Background && l.cfg.Background != ""
}

// need is how much of the rate there must be for a caller's next operation.
func (l *Limiter) need(c *caller) float64 {
	if l.inBackground(c) {
		return 1 + float64(l.cfg.Burst/2)
	}
	return 1
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
	for _, c := range l.turns {
		for _, t := range c.queue {
			t.away = err
			close(t.called)
		}
		c.queue = nil
		l.forget(c)
	}
	l.turns, l.waiting = nil, 0
}

// isAway is the error while everybody has to stay away. The lock is held.
func (l *Limiter) isAway() error {
	if left := time.Until(l.away); left > 0 {
		return Away(left)
	}
	return nil
}

// start begins the first operation of the caller at i and sends it to the end
// of the turns.
func (l *Limiter) start(i int) {
	c := l.turns[i]
	l.turns = append(l.turns[:i], l.turns[i+1:]...)
	t := c.queue[0]
	c.queue = c.queue[1:]
	if len(c.queue) > 0 {
		l.turns = append(l.turns, c)
	}
	l.waiting--
	l.active++
	c.active++
	close(t.called)
}

func (l *Limiter) fill() {
	now := time.Now()
	l.tokens = math.Min(float64(l.cfg.Burst), l.tokens+now.Sub(l.filled).Seconds()*l.cfg.Rate)
	l.filled = now
}

// comeBack sets the timer for when the rate allows an operation that needs so
// much of it. One that is set for later, for the background, is set anew.
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

func (l *Limiter) release(c *caller) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active--
	c.active--
	l.forget(c)
	l.pump()
}

// abandon takes back what ctx ended: a waiting operation, or one that was
// granted at the same moment.
func (l *Limiter) abandon(c *caller, t *ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-t.called:
		if t.away != nil {
			return
		}
		l.active--
		c.active--
	default:
		for i, q := range c.queue {
			if q == t {
				c.queue = append(c.queue[:i], c.queue[i+1:]...)
				break
			}
		}
		l.waiting--
		if len(c.queue) == 0 {
			l.leaveTurns(c)
		}
	}
	l.forget(c)
	l.pump()
}

func (l *Limiter) leaveTurns(c *caller) {
	for i, t := range l.turns {
		if t == c {
			l.turns = append(l.turns[:i], l.turns[i+1:]...)
			return
		}
	}
}

func (l *Limiter) forget(c *caller) {
	if c.active == 0 && len(c.queue) == 0 {
		delete(l.callers, c.name)
	}
}
