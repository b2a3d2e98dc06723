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
}

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
	timer   *time.Timer
}

// caller exists while it has operations waiting or under way.
type caller struct {
	name   string
	queue  []*ticket
	active int
}

type ticket struct{ granted chan struct{} }

// New returns a limiter with nothing under way.
func New(cfg Config) *Limiter {
	return &Limiter{cfg: cfg, callers: map[string]*caller{}, tokens: float64(cfg.Burst), filled: time.Now()}
}

// Acquire waits until an operation of the caller may begin, and returns the
// function to call when it has ended. The error is ErrBusy at once, or that of
// ctx.
func (l *Limiter) Acquire(ctx context.Context, name string) (release func(), err error) {
	l.mu.Lock()
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
	t := &ticket{granted: make(chan struct{})}
	c.queue = append(c.queue, t)
	l.waiting++
	l.pump()
	l.mu.Unlock()

	var once sync.Once
	release = func() { once.Do(func() { l.release(c) }) }
	select {
	case <-t.granted:
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
		if l.tokens < 1 {
			l.comeBack()
			return
		}
		l.tokens--
		l.start(i)
	}
}

// next is the place in turns of the first caller that may start one more
// operation, -1 when there is none.
func (l *Limiter) next() int {
	for i, c := range l.turns {
		if c.active < l.cfg.PerCaller {
			return i
		}
	}
	return -1
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
	close(t.granted)
}

func (l *Limiter) fill() {
	now := time.Now()
	l.tokens = math.Min(float64(l.cfg.Burst), l.tokens+now.Sub(l.filled).Seconds()*l.cfg.Rate)
	l.filled = now
}

// comeBack sets the timer for when the rate allows the next operation.
func (l *Limiter) comeBack() {
	if l.timer != nil {
		return
	}
	// A microsecond more, or rounding would bring us back just too early.
	wait := time.Duration((1-l.tokens)/l.cfg.Rate*float64(time.Second)) + time.Microsecond
	l.timer = time.AfterFunc(wait, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.timer = nil
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
	case <-t.granted:
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
