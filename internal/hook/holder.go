// Package hook is the holder: the part of the node agent that needs privileges, and that no pod can
// talk to.
//
// It puts BPF programs on the pods' control group, enters each pod's network namespace to open
// podid's sockets there, and passes them to the agent. The agent has no privilege; it serves pods
// through the sockets. Connections to a listener whose agent has died wait until another one has
// it, because the holder keeps the listener open.
package hook

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/protocol"
)

// Programs is where connects in a network namespace arrive. *program.Hook implements it.
type Programs interface {
	Publish(cookie uint64, at netip.AddrPort) error
	Withdraw(cookie uint64) error
	Published() ([]uint64, error)
}

// Config is what a holder works with.
type Config struct {
	Programs Programs
	// Folder is where the container runtime keeps network namespaces.
	Folder string
	// Node is the cookie of the node's own network namespace, which is left alone.
	Node uint64
	// Listen is the address of the listeners. If a pod uses the port, the next free one is taken.
	Listen netip.AddrPort
	// Agents is where agents connect.
	Agents *protocol.Listener
}

// Holder holds the sockets in pods' network namespaces.
type Holder struct {
	config Config
	log    logr.Logger

	mu         sync.Mutex
	namespaces map[string]*namespace // by path
	agents     map[*agent]bool
}

// namespace is one with sockets in it.
type namespace struct {
	path    string
	sockets *netns.Sockets
}

func (n *namespace) message(kind protocol.Kind) protocol.Message {
	return protocol.Message{Kind: kind, Namespace: filepath.Base(n.path), Cookie: n.sockets.Cookie, Address: n.sockets.Address}
}

// New returns a holder that has nothing yet.
func New(config Config, log logr.Logger) *Holder {
	return &Holder{config: config, log: log.WithName("holder"), namespaces: map[string]*namespace{}, agents: map[*agent]bool{}}
}

// Run holds sockets and passes them on until ctx ends. Programs and published listeners stay: an
// agent that has the sockets goes on serving.
func (h *Holder) Run(ctx context.Context) error {
	defer h.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return h.watch(ctx, group) })
	group.Go(func() error { return h.accept(ctx, group) })
	return group.Wait()
}

// close closes the holder's own sockets.
func (h *Holder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.namespaces {
		_ = n.sockets.Close()
	}
}

// watch opens and closes sockets as namespaces come and go.
func (h *Holder) watch(ctx context.Context, group *errgroup.Group) error {
	opening := map[string]context.CancelFunc{}
	return netns.Watch(ctx, h.config.Folder, func(path string) {
		ctx, cancel := context.WithCancel(ctx)
		opening[path] = cancel
		group.Go(func() error { h.open(ctx, path); return nil })
	}, func(path string) {
		opening[path]()
		delete(opening, path)
		h.remove(path)
	})
}

// The pauses between attempts to enter a namespace that the runtime is still mounting.
const (
	firstPause = time.Millisecond
	maxPause   = time.Second
)

// open opens the sockets in a namespace, and retries until ctx ends.
func (h *Holder) open(ctx context.Context, path string) {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		sockets, err := netns.Open(path, h.config.Listen)
		if err == nil {
			h.add(ctx, &namespace{path: path, sockets: sockets})
			return
		}
		if pause == maxPause && !errors.Is(err, os.ErrNotExist) {
			h.log.Error(err, "cannot open sockets in a network namespace, retrying", "remedy", remedy(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EINVAL):
		return "none needed if the container runtime is still creating it; otherwise remove the file"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "raise the limit of open files: podid needs three for each pod"
	case errors.Is(err, unix.EADDRINUSE):
		return "choose another port, which pods do not use"
	}
	return "none known"
}

// add stores a namespace, passes its sockets to the agents, and publishes its listener.
func (h *Holder) add(ctx context.Context, n *namespace) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil || n.sockets.Cookie == h.config.Node || h.known(n.sockets.Cookie) {
		_ = n.sockets.Close()
		return
	}
	h.namespaces[n.path] = n
	for a := range h.agents {
		a.queue(item{namespace: n, kind: protocol.Appeared})
	}
}

// known reports whether a namespace has sockets already, by another name. The caller must hold mu.
func (h *Holder) known(cookie uint64) bool {
	for _, n := range h.namespaces {
		if n.sockets.Cookie == cookie {
			return true
		}
	}
	return false
}

// remove withdraws a namespace's listener and closes its sockets.
func (h *Holder) remove(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.namespaces[path]
	if n == nil {
		return
	}
	delete(h.namespaces, path)
	if err := h.config.Programs.Withdraw(n.sockets.Cookie); err != nil {
		h.log.Error(err, "cannot withdraw the listener of a namespace that is gone", "namespace", path)
	}
	if err := n.sockets.Close(); err != nil {
		h.log.Error(err, "cannot close sockets", "namespace", path)
	}
	for a := range h.agents {
		a.queue(item{namespace: n, kind: protocol.Vanished})
	}
}

// publish publishes a namespace's listener once an agent has it, unless the namespace has vanished.
func (h *Holder) publish(n *namespace) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.namespaces[n.path] != n {
		return nil
	}
	return h.config.Programs.Publish(n.sockets.Cookie, n.sockets.Address)
}

// accept serves agents until ctx ends.
func (h *Holder) accept(ctx context.Context, group *errgroup.Group) error {
	stop := context.AfterFunc(ctx, func() { _ = h.config.Agents.Close() })
	defer stop()
	for {
		conn, err := h.config.Agents.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, protocol.ErrPeer):
			h.log.Error(err, "turned away a process that is no agent")
			continue
		case err != nil:
			return fmt.Errorf("serve agents: %w", err)
		}
		group.Go(func() error { h.serve(ctx, conn); return nil })
	}
}
