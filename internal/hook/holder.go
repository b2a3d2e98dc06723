// Package hook is the holder: the part of the node agent that needs privileges, and that no pod can
// talk to.
//
// It puts BPF programs on the pods' control group, enters each pod's network namespace to open
// podid's sockets there, and passes them to the agent. The agent has no privilege; it serves pods
// through the sockets. Connections to a listener whose agent has died wait until another one has
// it, because the holder keeps the listener open.
//
//	namespaces.go   opens and closes sockets as the folder of namespaces changes
//	agents.go       passes sockets to agents
//	publish.go      publishes the listeners that an agent has
//	hostpods.go     captures the pods on the node's network that an agent asks for
//	boot.go         refuses pods before there is a holder
package hook

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"

	"github.com/podid-io/podid/internal/hook/generation"
	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/protocol"
)

// Programs is where connects in a network namespace arrive. *program.Hook implements it.
type Programs interface {
	Publish(cookie uint64, at netip.AddrPort) error
	Withdraw(cookie uint64) error
	Published() ([]uint64, error)

	// The control groups of pods on the node's network that are captured.
	Capture(group uint64) error
	Free(group uint64) error
	Captured() ([]uint64, error)
}

// Agents is where agents connect. *protocol.Listener implements it.
type Agents interface {
	Accept() (*protocol.Conn, error)
	Close() error
}

// Config is what a holder works with.
type Config struct {
	Programs Programs
	// Generation is this holder's place among those of the node.
	Generation *generation.Lock
	// Folder is where the container runtime keeps network namespaces. It may appear later.
	Folder string
	// Node is the cookie of the node's own network namespace. It is left alone, unless NodeFile leads
	// to it: then agents may ask to capture pods on the node's network, which arrive at a listener
	// there. Group is the folder of the pods' control group.
	Node            uint64
	NodeFile, Group string
	// Listen is the address of the listeners. If a pod uses the port, the next free one is taken.
	Listen netip.AddrPort
	// Agents is where agents connect.
	Agents Agents
	// Ready is called once, when an agent has all listeners and they are published. If it fails, it
	// is called again. It may be nil.
	Ready func() error
}

// Holder holds the sockets in pods' network namespaces.
type Holder struct {
	config Config
	log    logr.Logger
	opens  chan struct{} // one for each attempt to open sockets that is under way
	// The kernel and the clock, which tests replace.
	openSockets func(path string, at netip.AddrPort) (*netns.Sockets, error)
	openDiag    func(*netns.Sockets) (*os.File, error)
	now         func() time.Time

	mu         sync.Mutex
	files      map[string]*file      // by path
	namespaces map[uint64]*namespace // by cookie
	agents     map[*agent]bool
	listed     bool                 // the folder was listed
	untried    int                  // files that were not opened once
	settled    bool                 // each file of the first listing was opened once
	retired    bool                 // another agent serves pods
	reported   bool                 // Ready was called
	unknown    map[uint64]time.Time // since when cookies are published that no namespace has
	logged     map[string]time.Time
}

// maxOpens bounds the attempts to open sockets that are under way: each occupies a thread.
const maxOpens = 8

// New returns a holder that has nothing yet.
func New(config Config, log logr.Logger) *Holder {
	return &Holder{
		config: config, log: log.WithName("holder"), opens: make(chan struct{}, maxOpens),
		openSockets: netns.Open, openDiag: (*netns.Sockets).Diag, now: time.Now,
		files: map[string]*file{}, namespaces: map[uint64]*namespace{}, agents: map[*agent]bool{},
		unknown: map[uint64]time.Time{}, logged: map[string]time.Time{},
	}
}

// Run holds sockets and passes them on until ctx ends. Programs and published listeners stay: an
// agent that has the sockets goes on serving.
func (h *Holder) Run(ctx context.Context) error {
	defer h.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { h.watch(ctx, group); return nil })
	group.Go(func() error { h.accept(ctx, group); return nil })
	group.Go(func() error { h.reconcileLoop(ctx); return nil })
	return group.Wait()
}

// close closes the holder's own sockets, and lets another holder publish.
func (h *Holder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.namespaces {
		_ = n.sockets.Close()
	}
	if err := h.config.Generation.SetReady(false); err != nil {
		h.log.Error(err, "cannot let another holder publish")
	}
}

// The pauses between attempts to accept an agent.
const (
	firstAcceptPause = 5 * time.Millisecond
	maxAcceptPause   = time.Second
)

// accept serves agents until ctx ends.
func (h *Holder) accept(ctx context.Context, group *errgroup.Group) {
	stop := context.AfterFunc(ctx, func() { _ = h.config.Agents.Close() })
	defer stop()
	pause := firstAcceptPause
	for {
		conn, err := h.config.Agents.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return
		case err == nil:
			pause = firstAcceptPause
			group.Go(func() error { h.serve(ctx, conn); return nil })
			continue
		case errors.Is(err, protocol.ErrPeer): // at once: agents must not wait for such peers
			h.complain(err, "rejected a connection that is no agent's")
			continue
		case errors.Is(err, net.ErrClosed):
			h.log.Error(err, "stopped accepting agents")
			return
		default: // such as too many open files
			h.complain(err, "cannot accept agents, retrying")
		}
		sleep(ctx, pause)
		pause = min(2*pause, maxAcceptPause)
	}
}

func sleep(ctx context.Context, pause time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

// The same error is logged once in an interval.
const (
	logInterval = time.Minute
	maxLogged   = 100
)

// complain logs an error that is met again and again. The message is a constant.
func (h *Holder) complain(err error, message string, keys ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.complainLocked(err, message, keys...)
}

// complainLocked is complain for callers that hold mu.
func (h *Holder) complainLocked(err error, message string, keys ...any) {
	text, now := message+err.Error(), h.now()
	if at, known := h.logged[text]; known && now.Sub(at) < logInterval {
		return
	}
	if len(h.logged) >= maxLogged {
		clear(h.logged)
	}
	h.logged[text] = now
	h.log.Error(err, message, keys...)
}
