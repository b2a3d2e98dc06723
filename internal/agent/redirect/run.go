// When the redirect is checked: at the start, at every interval, and when the kernel tells of a change.

package redirect

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
)

const (
	// What is broken is put right at once, ten times in a row; then at most ten times a second. A check
	// reads about a dozen small objects, so this is also what our own writes and others' noise can cost.
	changeGap   = 100 * time.Millisecond
	changeBurst = 10

	// An attempt that failed is repeated after 100 ms, 200 ms, ... 10 s, or the interval if that is less.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 10 * time.Second

	// While a newer agent has the rules, nothing tells when it dies: look this often. Pods are refused
	// meanwhile, and upgrades are short.
	supersededInterval = 2 * time.Second
)

// Run keeps the redirect in place until ctx ends. It checks at once, at every interval (which must be more
// than 0), and whenever the kernel tells of a change, and calls onState after each check: with nil when the
// redirect is in place, else with why not. It keeps trying and never gives up. The rules stay when it ends.
func (r *Redirect) Run(ctx context.Context, interval time.Duration, onState func(error)) {
	l := loop{
		interval: interval,
		check:    r.ensure,
		watch:    func() (*changes, error) { return watch(r.config.Table) },
		onState:  onState,
		look:     r.look,
		log: logr.FromContextOrDiscard(ctx).WithName("redirect").
			WithValues("table", r.config.Table, "agent", r.config.AgentIP.String()),
	}
	l.run(ctx)
}

// loop is Run without the kernel.
type loop struct {
	interval time.Duration
	check    func(context.Context) (outcome, error)
	watch    func() (*changes, error)
	onState  func(error)
	look     <-chan struct{} // somebody wants a check now
	log      logr.Logger

	watching *changes // nil while the kernel does not tell of changes
	failures int      // in a row
	last     string   // what was logged last, so that the same thing is said once
}

func (l *loop) run(ctx context.Context) {
	defer l.unwatch()
	pace := rate.NewLimiter(rate.Every(changeGap), changeBurst)
	for pace.Wait(ctx) == nil {
		l.rewatch() // before the check: what changes after it is announced
		out, err := l.check(ctx)
		if ctx.Err() != nil {
			return // an error now is the end of ctx, not of the redirect
		}
		l.note(out, err)
		l.onState(err)
		if !l.wait(ctx, l.pause(out)) {
			return
		}
	}
}

// note counts failures in a row, and logs what is new.
func (l *loop) note(out outcome, err error) {
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
	case err != nil && state != l.last:
		l.log.Error(err, "redirect not in place, trying again")
	case len(out.repaired) > 0 && err == nil:
		l.log.Info("redirect put in place", "written", out.repaired)
	case out.superseded && state != l.last:
		l.log.Info("a newer agent has the redirect")
	case err == nil && state != l.last:
		l.log.Info("redirect in place")
	}
	l.last = state
}

// pause is how long to wait for the next check when nothing happens.
func (l *loop) pause(out outcome) time.Duration {
	switch {
	case l.failures > 0:
		return min(firstRetry<<min(l.failures-1, 10), lastRetry, l.interval)
	case out.superseded:
		return min(supersededInterval, l.interval)
	default:
		return l.interval
	}
}

// wait ends after the pause or at a change; false when ctx has ended.
func (l *loop) wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	var seen, ended chan struct{} // never ready while not watching
	if l.watching != nil {
		seen, ended = l.watching.seen, l.watching.ended
	}
	select {
	case <-ctx.Done():
		return false
	case <-seen:
	case <-l.look:
	case <-ended:
		l.unwatch()
	case <-timer.C:
	}
	return true
}

// rewatch asks for announcements where that has not worked so far, or no longer does. Without them the
// interval still holds.
func (l *loop) rewatch() {
	if l.watching != nil {
		return
	}
	watching, err := l.watch()
	if err != nil {
		l.log.V(1).Info("changes are not announced, checking at intervals only", "reason", err.Error())
		return
	}
	l.watching = watching
}

func (l *loop) unwatch() {
	if l.watching != nil {
		l.watching.stop()
		l.watching = nil
	}
}
