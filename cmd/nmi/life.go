// The agent's place among the generations on its node: how it takes over from an older one, and how it leaves.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/handover"
	"github.com/podid-io/podid/internal/program"
)

// The times of a change of generations. Kubernetes gives a pod 30 s to end: starting, draining and the 5 s that the
// servers take are within that.
const (
	// appearTime is how long an agent told to end goes on for the next one to appear: it may have been started at the
	// same moment. Nothing is lost by it, as pods are served meanwhile.
	appearTime = 3 * time.Second
	// startTime is how long it waits for one that has appeared to serve pods.
	startTime = 10 * time.Second
	// settleTime is how long connections that were on their way when the redirect moved may take to arrive: a lost
	// packet is sent again after a second.
	settleTime = 1500 * time.Millisecond
	// drainTime is how long connections that are kept open may take to be used once more, and be told to close.
	drainTime = 10 * time.Second
	// turnTime is how long an agent tries to get ready while an older one serves. It is less than the time after which
	// the chart's readiness probe would hold the older one for ill, too (12 times 5 s): both ask at the same port.
	turnTime = 40 * time.Second
	// portsTime is how long ports that are taken are tried, for an agent that is just ending.
	portsTime = 20 * time.Second
)

// life is what the generations share.
type life struct {
	line     *handover.Line
	older    *handover.Older // nil when there was none
	log      logr.Logger
	turn     chan struct{} // closed when it is this agent's turn to serve
	told     sync.Once     // the older agent, that this one serves
	last     atomic.Bool   // each answer on a connection is the last one there
	crowd    crowd
	sendAway context.CancelFunc // ends requests that are held
}

func newLife(log logr.Logger) *life {
	return &life{line: handover.New(log), log: log, turn: make(chan struct{}), crowd: crowd{changed: make(chan struct{})}}
}

// takeBack puts this agent's redirect in place although a newer one had it.
func (a *agent) takeBack(ctx context.Context) error {
	return errors.Join(a.redirect.Renew(), a.redirect.Ensure(ctx))
}

// openPorts opens the ports that only one agent can have, with the help of an older one.
func (a *agent) openPorts(ctx context.Context) (program.Servers, error) {
	deadline, said := time.Now().Add(portsTime), false
	for {
		a.join(ctx)
		servers, err := a.o.ListenWith(ctx, a.life.line, a.health, a.registry)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return servers, err
		}
		if !said {
			a.log.Info("a port is taken, perhaps by an agent that is about to end: trying again", "reason", err.Error())
			said = true
		}
		if a.life.older != nil {
			a.life.older.Close()
			a.life.older = nil
		}
		select {
		case <-time.After(retryInterval / 4):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// join calls the agent that has the redirect, if there is one.
func (a *agent) join(ctx context.Context) {
	word, at, found, err := a.redirect.Owner(ctx)
	switch {
	case err != nil:
		a.log.V(1).Info("cannot look for an older agent", "reason", err.Error()) // the redirect will say why, too
		return
	case !found:
		return
	}
	older, err := a.life.line.Join(ctx, word, a.o.Addresses(), a.o.ports.later())
	if err != nil {
		a.log.Info("an older agent has the redirect, and does not hand over", "address", at.String(), "reason", err.Error())
		return
	}
	a.log.Info("taking over from an older agent", "address", at.String())
	a.life.older = older
}

// awaitTurn waits until this agent is to have the redirect: at once where there is no older one, else when it can serve
// pods or the older one is gone.
func (a *agent) awaitTurn(ctx context.Context) error {
	if a.life.older != nil {
		problems := func() string { return strings.Join(a.health.Ready(), "; ") }
		if err := awaitTurn(ctx, a.cluster.Synced(), a.life.older.Gone(), problems); err != nil {
			return err
		}
	}
	close(a.life.turn)
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

// serves tells the older agent, once, that this one has the redirect.
func (l *life) serves() {
	if l.older == nil {
		return
	}
	l.told.Do(func() {
		if err := l.older.Serving(); err != nil {
			l.log.V(1).Info("the older agent has ended before it was told", "reason", err.Error())
		}
	})
}

// follow asks clients for new connections while a newer agent serves: those go there.
func (l *life) follow(ctx context.Context) {
	for {
		state, changed := l.line.State()
		l.last.Store(state == handover.Serving)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// leave is what happens between the signal to end and the end. It returns when nothing is left that would fail.
func (l *life) leave(ctx context.Context) {
	l.line.Leave()
	if l.older != nil && l.older.Leave(ctx) || l.succeeded(ctx) {
		l.last.Store(true)
		l.drain(ctx)
	}
	l.sendAway()
}

// succeeded waits for a newer agent that serves pods.
func (l *life) succeeded(ctx context.Context) bool {
	limit := time.NewTimer(appearTime)
	defer limit.Stop()
	appeared := false
	for {
		state, changed := l.line.State()
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

// drain waits until all connections are gone. Each is closed with its next answer; a client never meets a connection
// that is closed between two requests, unless it did not use it for long.
func (l *life) drain(ctx context.Context) {
	l.log.Info("a newer agent serves pods, finishing what is open", "connections", l.crowd.size())
	settled, limit := time.NewTimer(settleTime), time.NewTimer(drainTime)
	defer settled.Stop()
	defer limit.Stop()
	select {
	case <-settled.C:
	case <-ctx.Done():
		return
	}
	for {
		open, changed := l.crowd.state()
		if open == 0 {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// answers is a handler that closes connections politely while the agent leaves.
func (l *life) answers(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if l.last.Load() {
			w.Header().Set("Connection", "close")
		}
		handler(w, r)
	}
}

// crowd counts open connections.
type crowd struct {
	mu      sync.Mutex
	open    int
	changed chan struct{} // closed when there are fewer
}

func (c *crowd) add() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
}

func (c *crowd) remove() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open--; c.open == 0 {
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

func (c *crowd) state() (int, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open, c.changed
}

func (c *crowd) size() int {
	open, _ := c.state()
	return open
}

// counted is a listener whose connections are counted.
type counted struct {
	net.Listener
	crowd *crowd
}

// Accept returns the next connection.
func (l counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	socket, ok := c.(socketConn)
	if !ok {
		return c, nil
	}
	l.crowd.add()
	return &countedConn{socketConn: socket, done: sync.OnceFunc(l.crowd.remove)}, nil
}

// socketConn is a connection whose socket the kernel can be asked about.
type socketConn interface {
	net.Conn
	syscall.Conn
}

// countedConn is a connection that calls done when it is closed.
type countedConn struct {
	socketConn
	done func()
}

// Close closes the connection.
func (c *countedConn) Close() error {
	c.done()
	return c.socketConn.Close()
}
