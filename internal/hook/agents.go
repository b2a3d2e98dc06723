// Passing sockets to agents.

package hook

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/protocol"
)

// agent is a connected agent. The holder's mutex guards all fields up to hostPods.
type agent struct {
	conn     *protocol.Conn
	has      map[*namespace]bool // whose sockets it was passed
	ready    bool                // it was passed all that were there
	asked    bool                // it sent a request
	hostPods []string            // the UIDs of its last request

	mu    sync.Mutex
	items []item
	more  chan struct{} // holds at most one
}

// item is a message that has not been sent.
type item struct {
	namespace *namespace // nil for Complete
	kind      protocol.Kind
	pause     time.Duration // before the last attempt
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

// queueAll queues an item for all agents. The caller must hold mu.
func (h *Holder) queueAll(i item) {
	for a := range h.agents {
		a.queue(i)
	}
}

// connect adds an agent, which gets all sockets.
func (h *Holder) connect(conn *protocol.Conn) *agent {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := &agent{conn: conn, has: map[*namespace]bool{}, more: make(chan struct{}, 1)}
	h.agents[a] = true
	for _, n := range h.namespaces {
		a.queue(item{namespace: n, kind: protocol.Appeared})
	}
	if h.settled {
		a.queue(item{kind: protocol.Complete})
	}
	return a
}

func (h *Holder) disconnect(a *agent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.agents, a)
	h.setReady()
}

// serve passes all sockets to an agent, now and as namespaces come, until it or ctx ends.
func (h *Holder) serve(ctx context.Context, conn *protocol.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	a := h.connect(conn)
	defer h.disconnect(a)
	go func() {
		defer cancel()
		h.receive(ctx, a)
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

// send sends one item. An error is one of the connection.
func (h *Holder) send(a *agent, i item) error {
	switch i.kind {
	case protocol.Appeared:
		return h.pass(a, i)
	case protocol.Complete:
		// The listeners are published first: an agent that knows that it has all may let an older
		// one end.
		h.completed(a)
		return a.conn.Send(protocol.Message{Kind: i.kind})
	default:
		return a.conn.Send(i.namespace.message(i.kind))
	}
}

// The pauses between attempts to pass the sockets of one namespace.
const (
	firstPassPause = 10 * time.Millisecond
	maxPassPause   = 30 * time.Second
)

// pass passes a namespace's sockets to an agent, unless the namespace has vanished. If they cannot
// be prepared, it retries later: the other namespaces do not wait.
func (h *Holder) pass(a *agent, i item) error {
	sockets, err := h.copyOf(i.namespace)
	if errors.Is(err, errVanished) {
		return nil
	}
	if err != nil {
		h.passLater(a, i, err)
		return nil
	}
	defer func() { _ = sockets.Close() }()
	// Each agent gets a sock_diag socket of its own: two readers would get each other's answers.
	diag, err := h.openDiag(sockets)
	if err != nil {
		h.passLater(a, i, err)
		return nil
	}
	defer func() { _ = diag.Close() }()
	if err := a.conn.Send(i.namespace.message(i.kind), sockets.Listener, diag); err != nil {
		return err
	}
	h.passed(a, i.namespace)
	return nil
}

func (h *Holder) passLater(a *agent, i item, err error) {
	h.log.Error(err, "cannot prepare the sockets of a network namespace for the agent, retrying",
		"namespace", i.namespace.name, "remedy", remedy(err))
	i.pause = min(max(2*i.pause, firstPassPause), maxPassPause)
	time.AfterFunc(i.pause, func() { a.queue(i) })
}

var errVanished = errors.New("the network namespace has vanished")

// copyOf returns descriptors of a namespace's sockets, or errVanished. The holder's own may be
// closed, and their numbers used for something else, before they are sent.
func (h *Holder) copyOf(n *namespace) (*netns.Sockets, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.namespaces[n.sockets.Cookie] != n {
		return nil, errVanished
	}
	return n.sockets.Copy()
}
