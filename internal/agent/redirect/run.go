// When the redirect is checked: at the start, at every interval, and when the kernel notifies of a
// change.

package redirect

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
)

const (
	// The first checkBurst checks after changes run at once, later ones minCheckInterval apart. A
	// check reads about a dozen small objects. The limit also bounds the cost of notifications about
	// the agent's own writes and of unrelated changes.
	minCheckInterval = 100 * time.Millisecond
	checkBurst       = 10

	// A failed check is retried with exponential backoff, or at the interval if that is shorter.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second

	// While a newer agent has the rules, there is no notification of its death, after which pods are
	// refused until the next check. Upgrades are short, so frequent checks cost little.
	supersededInterval = 2 * time.Second
)

// Run keeps the redirect in place until ctx ends. It checks at once, at every interval, which must
// be more than 0, and when the kernel notifies of a change. After each check it calls onState, with
// nil if the redirect is in place, else with the error. It retries without a limit. The rules stay
// when it returns.
func (r *Redirect) Run(ctx context.Context, interval time.Duration, onState func(error)) {
	l := loop{
		interval:  interval,
		check:     r.ensure,
		subscribe: func() (*subscription, error) { return subscribe(r.config.Table) },
		onState:   onState,
		checkNow:  r.checkNow,
		log: logr.FromContextOrDiscard(ctx).WithName("redirect").
			WithValues("table", r.config.Table, "agent", r.config.AgentIP.String()),
	}
	l.run(ctx)
}

// loop is Run without the kernel.
type loop struct {
	interval  time.Duration
	check     func(context.Context) (outcome, error)
	subscribe func() (*subscription, error)
	onState   func(error)
	checkNow  <-chan struct{} // requests a check at once
	log       logr.Logger

	subscription *subscription // nil while there is none
	failures     int           // in a row
	lastState    string        // was logged, so that each state is logged once
}

func (l *loop) run(ctx context.Context) {
	defer l.unsubscribe()
	limiter := rate.NewLimiter(rate.Every(minCheckInterval), checkBurst)
	for limiter.Wait(ctx) == nil {
		l.resubscribe() // before the check, so that no later change is missed
		out, err := l.check(ctx)
		if ctx.Err() != nil {
			return // an error may be due to the end of ctx
		}
		l.record(out, err)
		l.onState(err)
		if !l.wait(ctx, l.delay(out)) {
			return
		}
	}
}

// record counts failures in a row, and logs a state that is new.
func (l *loop) record(out outcome, err error) {
	state := "in place"
	switch {
	case err != nil:
		l.failures++
		state = err.Error()
	case out.superseded:
		l.failures, state = 0, "superseded"
	default:
		l.failures = 0
	}
	switch {
	case err != nil && state != l.lastState:
		l.log.Error(err, "redirect not in place, retrying")
	case len(out.repaired) > 0 && err == nil:
		l.log.Info("redirect put in place", "written", out.repaired)
	case out.superseded && state != l.lastState:
		l.log.Info("a newer agent has the redirect")
	case err == nil && state != l.lastState:
		l.log.Info("redirect in place")
	}
	l.lastState = state
}

// delay returns how long to wait for the next check if nothing changes.
func (l *loop) delay(out outcome) time.Duration {
	switch {
	case l.failures > 0:
		return min(minBackoff<<min(l.failures-1, 10), maxBackoff, l.interval)
	case out.superseded:
		return min(supersededInterval, l.interval)
	default:
		return l.interval
	}
}

// wait waits for the delay, or until a change. It reports whether ctx continues.
func (l *loop) wait(ctx context.Context, delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	var changed, ended chan struct{} // never ready without a subscription
	if l.subscription != nil {
		changed, ended = l.subscription.changed, l.subscription.ended
	}
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	case <-l.checkNow:
	case <-ended:
		l.unsubscribe()
	case <-timer.C:
	}
	return true
}

// resubscribe subscribes to changes if there is no subscription. Without one, checks run at the
// interval only.
func (l *loop) resubscribe() {
	if l.subscription != nil {
		return
	}
	s, err := l.subscribe()
	if err != nil {
		l.log.V(1).Info("cannot subscribe to changes, checking at intervals only", "reason", err.Error())
		return
	}
	l.subscription = s
}

func (l *loop) unsubscribe() {
	if l.subscription != nil {
		l.subscription.stop()
		l.subscription = nil
	}
}
