// What an operator does on a node without an agent. Clean removes the redirect, so that pods reach
// the real metadata service. Guard closes it to them before any pod runs.

package redirect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// BusyError reports that an agent serves on the node, which would restore what is removed.
type BusyError struct{ At netip.AddrPort }

// Error returns the message, which includes what to do.
func (e *BusyError) Error() string {
	return fmt.Sprintf("an agent answers at %s and would restore the redirect: stop it first (uninstall the chart, or keep NMI off this node)", e.At)
}

// cleanInterval is how often Clean checks whether an agent has stopped. Only a parent process is
// notified of that.
const cleanInterval = 500 * time.Millisecond

// Clean removes rules and address from the node, and reports whether there were any. While an agent
// answers, it waits for stopTimeout at most, and then fails with a BusyError. With force, it does
// not check for an agent. It handles only the address and the table of c, not those of an agent
// with other ones.
func Clean(ctx context.Context, c Config, stopTimeout time.Duration, force bool) (found bool, err error) {
	c.AgentPort = 0 // this process is no agent: any that answers is another one
	r, err := New(c)
	if err != nil {
		return false, err
	}
	if !force {
		if err := r.awaitStop(ctx, stopTimeout); err != nil {
			return false, err
		}
	}
	if found, err = r.present(); err != nil || !found {
		return found, err
	}
	return true, r.Remove(ctx)
}

// Guard adds the address and the rules, so that pods are refused until an agent serves. It does
// nothing where an agent answers, which keeps them in place itself. It reports whether no agent
// answered.
func Guard(ctx context.Context, c Config) (guarded bool, err error) {
	anyAgent := c
	anyAgent.AgentPort = 0 // as in Clean
	finder, err := New(anyAgent)
	if err != nil {
		return false, err
	}
	if _, _, busy, err := finder.Owner(ctx); err != nil || busy {
		return false, err
	}
	r, err := New(c)
	if err != nil {
		return false, err
	}
	return true, r.Ensure(ctx)
}

// awaitStop waits until no agent answers. It fails with a BusyError after timeout.
func (r *Redirect) awaitStop(ctx context.Context, timeout time.Duration) error {
	limit := time.NewTimer(timeout)
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

// present reports whether the table or the address exists.
func (r *Redirect) present() (bool, error) {
	have, err := readRuleset(build(r.config, r.port, r.generation))
	if err != nil || have != nil {
		return have != nil, err
	}
	return hasAddress(r.config.AgentIP)
}
