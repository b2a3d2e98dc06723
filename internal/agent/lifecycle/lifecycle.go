// Package lifecycle lets an agent take over from the older agent of its node, and hand over to a
// newer one, without a failed request. It decides when each step happens. The handover package
// carries them out, and docs/interception.md describes the whole.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/handover"
)

// The time limits of a handover. Kubernetes kills a pod 30 s after it has asked it to stop. Waiting
// for the newer agent, draining, and the 5 s that the servers need to shut down fit in that time.
const (
	// appearTime is how long a stopping agent waits for a newer one to appear, which may have been
	// started at the same moment. It serves pods meanwhile.
	appearTime = 3 * time.Second
	// startTime is how long it waits for a newer agent that has appeared to serve pods.
	startTime = 10 * time.Second
	// settleTime is how long connections in flight may take to arrive after the redirect moved. The
	// first retransmission of a lost packet is after a second.
	settleTime = 1500 * time.Millisecond
	// replacedTime bounds what an agent does first when another one serves pods.
	replacedTime = time.Second
	// drainTime is how long idle connections may take to be used once more and closed.
	drainTime = 10 * time.Second
	// turnTime is how long an agent tries to become ready while an older one serves. It must be
	// less than the 12 times 5 s after which the chart's readiness probe fails, because the probes
	// of both agents use the same port.
	turnTime = 40 * time.Second
	// portsTime is how long an agent tries to open ports that a stopping agent may still use, and
	// portsInterval the pause between two attempts.
	portsTime     = 20 * time.Second
	portsInterval = 500 * time.Millisecond
)

// Lifecycle is an agent's place among the agents of its node. Its methods may be called
// concurrently after OpenPorts has returned.
type Lifecycle struct {
	// Session hands over to a newer agent.
	Session *handover.Session

	log      logr.Logger
	older    *handover.OlderAgent // nil if there is none
	turn     chan struct{}        // closed when this agent may serve
	reported sync.Once            // to the older agent, that this one serves
	closing  atomic.Bool          // each response closes its connection
	open     connCounter
}

// New returns the life cycle of an agent that has not started yet.
func New(log logr.Logger) *Lifecycle {
	return &Lifecycle{Session: handover.New(log), log: log, turn: make(chan struct{}), open: connCounter{none: make(chan struct{})}}
}

// Ports are the ports that only one agent of the node can have open.
type Ports struct {
	// Now are those that this agent opens as it starts, Later those that an older agent serves
	// until this one serves pods.
	Now, Later []string
	// Owner returns the agent that has the redirect, as redirect.Owner does.
	Owner func(context.Context) (secret string, at netip.AddrPort, found bool, err error)
	// Open opens the ports in Now.
	Open func(context.Context) error
}

// OpenPorts opens the ports in Now, with sockets that an older agent hands over. It retries while
// another process has one of them.
func (l *Lifecycle) OpenPorts(ctx context.Context, p Ports) error {
	deadline, logged := time.Now().Add(portsTime), false
	for {
		l.join(ctx, p)
		err := p.Open(ctx)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return err
		}
		if !logged {
			l.log.Info("a port is in use, maybe by an agent that is stopping, retrying", "reason", err.Error())
			logged = true
		}
		if l.older != nil {
			l.older.Close()
			l.older = nil
		}
		select {
		case <-time.After(portsInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// join connects to the agent that has the redirect, if there is one.
func (l *Lifecycle) join(ctx context.Context, p Ports) {
	secret, at, found, err := p.Owner(ctx)
	switch {
	case err != nil:
		l.log.V(1).Info("cannot look for an older agent", "reason", err.Error()) // the redirect reports it as well
		return
	case !found:
		return
	}
	older, err := l.Session.Join(ctx, secret, p.Now, p.Later)
	if err != nil {
		l.log.Info("the older agent that has the redirect does not hand over", "address", at.String(), "reason", err.Error())
		return
	}
	l.log.Info("taking over from an older agent", "address", at.String())
	l.older = older
}

// TakesOver reports whether this agent takes over from an older one.
func (l *Lifecycle) TakesOver() bool { return l.older != nil }

// AwaitTurn waits until this agent may serve pods: at once if there is no older agent, else when
// ready is closed or the older agent is gone. It fails with the problems after turnTime.
func (l *Lifecycle) AwaitTurn(ctx context.Context, ready <-chan struct{}, problems func() string) error {
	if l.older != nil {
		if err := awaitTurn(ctx, ready, l.older.Gone(), problems); err != nil {
			return err
		}
	}
	close(l.turn)
	return nil
}

func awaitTurn(ctx context.Context, ready, gone <-chan struct{}, problems func() string) error {
	limit := time.NewTimer(turnTime)
	defer limit.Stop()
	select {
	case <-ready:
	case <-gone:
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return fmt.Errorf("not ready after %v, and an older agent serves pods: leaving them to it: %s", turnTime, problems())
	}
	return nil
}

// Turn is closed when AwaitTurn has returned without an error.
func (l *Lifecycle) Turn() <-chan struct{} { return l.turn }

// ReportServing notifies the older agent that this one serves pods. Further calls do nothing.
func (l *Lifecycle) ReportServing() {
	if l.older == nil {
		return
	}
	l.reported.Do(func() {
		if err := l.older.ReportServing(); err != nil {
			l.log.V(1).Info("the older agent stopped before this one served pods", "reason", err.Error())
		}
	})
}

// Run makes responses close their connections while a newer agent serves pods, until ctx ends.
// Clients then connect to that agent.
func (l *Lifecycle) Run(ctx context.Context) {
	for {
		state, changed := l.Session.State()
		l.closing.Store(state == handover.Serving)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Stop hands over to another agent, if there is one, calls replaced and drains connections. Then it
// cancels pending requests. When it returns, the agent can exit.
func (l *Lifecycle) Stop(ctx context.Context, replaced func(context.Context), cancelPending func()) {
	l.Session.MarkStopping()
	if l.older != nil && l.older.HandBack(ctx) || l.succeeded(ctx) {
		l.closing.Store(true)
		bounded, cancel := context.WithTimeout(ctx, replacedTime)
		replaced(bounded)
		cancel()
		l.drain(ctx)
	}
	cancelPending()
}

// succeeded waits for a newer agent that serves pods. It reports whether there is one.
func (l *Lifecycle) succeeded(ctx context.Context) bool {
	limit := time.NewTimer(appearTime)
	defer limit.Stop()
	appeared := false
	for {
		state, changed := l.Session.State()
		if state == handover.Serving {
			return true
		}
		if state == handover.Starting && !appeared {
			appeared = true
			limit.Reset(startTime)
		}
		select {
		case <-changed:
		case <-limit.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// drain waits until all connections are closed, but no longer than drainTime. Each is closed with
// its next response, so that clients do not write to a connection that is being closed.
func (l *Lifecycle) drain(ctx context.Context) {
	open, _ := l.open.state()
	l.log.Info("a newer agent serves pods, draining connections", "connections", open)
	settled, limit := time.NewTimer(settleTime), time.NewTimer(drainTime)
	defer settled.Stop()
	defer limit.Stop()
	select {
	case <-settled.C:
	case <-ctx.Done():
		return
	}
	for {
		open, none := l.open.state()
		if open == 0 {
			return
		}
		select {
		case <-none:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Handler returns a handler whose responses close their connections while another agent serves
// pods.
func (l *Lifecycle) Handler(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if l.closing.Load() {
			w.Header().Set("Connection", "close")
		}
		handler(w, r)
	}
}
