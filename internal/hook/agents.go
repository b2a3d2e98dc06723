// What the holder sends to each agent, in order.

package hook

import (
	"context"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/protocol"
)

// agent is a connected agent.
type agent struct {
	conn *protocol.Conn

	mu    sync.Mutex
	items []item
	more  chan struct{} // holds at most one
}

// item is a message that has not been sent.
type item struct {
	namespace *namespace // nil for Complete
	kind      protocol.Kind
}

// queue appends to what is sent. It does not wait.
func (a *agent) queue(items ...item) {
	a.mu.Lock()
	a.items = append(a.items, items...)
	a.mu.Unlock()
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// next waits for an item. It returns false when ctx has ended.
func (a *agent) next(ctx context.Context) (item, bool) {
	for {
		a.mu.Lock()
		if len(a.items) > 0 {
			first := a.items[0]
			a.items = a.items[1:]
			a.mu.Unlock()
			return first, true
		}
		a.mu.Unlock()
		select {
		case <-ctx.Done():
			return item{}, false
		case <-a.more:
		}
	}
}

// serve passes all sockets to an agent, now and as namespaces come, until it or ctx ends.
func (h *Holder) serve(ctx context.Context, conn *protocol.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	go func() { // an agent sends nothing: what is received is its end
		_, _, _ = conn.Receive()
		cancel()
	}()

	a := &agent{conn: conn, more: make(chan struct{}, 1)}
	h.mu.Lock()
	for _, n := range h.namespaces {
		a.queue(item{namespace: n, kind: protocol.Appeared})
	}
	a.queue(item{kind: protocol.Complete})
	h.agents[a] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.agents, a)
		h.mu.Unlock()
	}()

	h.log.Info("an agent has connected")
	for {
		next, ok := a.next(ctx)
		if !ok {
			h.log.Info("an agent has disconnected")
			return
		}
		if err := h.send(a, next); err != nil {
			if ctx.Err() == nil {
				h.log.Error(err, "cannot pass sockets to the agent, which has to connect again")
			}
			return
		}
	}
}

// send sends one item. A namespace that has vanished meanwhile is left out.
func (h *Holder) send(a *agent, i item) error {
	switch i.kind {
	case protocol.Complete:
		return a.conn.Send(protocol.Message{Kind: protocol.Complete})
	case protocol.Vanished:
		return a.conn.Send(i.namespace.message(protocol.Vanished))
	}
	// Each agent gets a sock_diag socket of its own: two readers would get each other's answers.
	diag, err := netns.OpenDiag(i.namespace.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = diag.Close() }()
	if err := a.conn.Send(i.namespace.message(protocol.Appeared), i.namespace.sockets.Listener, diag); err != nil {
		if errors.Is(err, unix.EBADF) { // closed meanwhile
			return nil
		}
		return err
	}
	return h.publish(i.namespace)
}
