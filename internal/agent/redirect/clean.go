// Acts of an operator on a node without an agent. Clean takes the redirect off it, which opens the way to the real
// metadata service. Guard closes that way before any pod runs.

package redirect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// BusyError says that an agent is at work on the node, so that what is removed would be put back.
type BusyError struct{ At netip.AddrPort }

// Error says what to do.
func (e *BusyError) Error() string {
	return fmt.Sprintf("an agent answers at %s and would put the redirect back: end it first (uninstall the chart, or keep NMI off this node)", e.At)
}

// cleanInterval is how often Clean looks whether an agent has ended: nothing tells who has not started it.
const cleanInterval = 500 * time.Millisecond

// Clean takes rules and address off the node, and tells whether there were any. While an agent answers it waits, for
// patience at most, and then refuses with a BusyError, unless it is forced. It works with its own Config only: an agent
// with another address or table is not looked for.
func Clean(ctx context.Context, c Config, patience time.Duration, force bool) (found bool, err error) {
	c.AgentPort = 0 // none of ours: whoever answers is another
	r, err := New(c)
	if err != nil {
		return false, err
	}
	if !force {
		if err := r.awaitEnd(ctx, patience); err != nil {
			return false, err
		}
	}
	if found, err = r.present(); err != nil || !found {
		return found, err
	}
	return true, r.Remove(ctx)
}

// Guard puts address and rules in place as they are with the agent gone: pods are refused until an agent serves. It
// reports whether it did so, which it does not where an agent answers: that one looks after them itself.
func Guard(ctx context.Context, c Config) (guarded bool, err error) {
	anyAgent := c
	anyAgent.AgentPort = 0 // as in Clean
	look, err := New(anyAgent)
	if err != nil {
		return false, err
	}
	if _, _, busy, err := look.Owner(ctx); err != nil || busy {
		return false, err
	}
	r, err := New(c)
	if err != nil {
		return false, err
	}
	return true, r.Ensure(ctx)
}

func (r *Redirect) awaitEnd(ctx context.Context, patience time.Duration) error {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(cleanInterval)
	defer tick.Stop()
	for {
		_, at, busy, err := r.Owner(ctx)
		if err != nil || !busy {
			return err
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return &BusyError{At: at}
		case <-ctx.Done():
			return errors.Join(&BusyError{At: at}, ctx.Err())
		}
	}
}

// present tells whether there is anything of the redirect.
func (r *Redirect) present() (bool, error) {
	have, err := readRuleset(build(r.config, r.port, r.generation))
	if err != nil || have != nil {
		return have != nil, err
	}
	return hasAddress(r.config.AgentIP)
}
