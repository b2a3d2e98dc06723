// Listeners that can rest while another process accepts on the same socket.

package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// listener accepts connections unless it rests.
type listener struct {
	*net.TCPListener

	mu     sync.Mutex
	awake  chan struct{} // closed while it accepts
	closed chan struct{}
	once   sync.Once
}

func newListener(l *net.TCPListener) *listener {
	awake := make(chan struct{})
	close(awake)
	return &listener{TCPListener: l, awake: awake, closed: make(chan struct{})}
}

// Accept returns the next connection. While the listener rests, it waits.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		awake := l.awake
		l.mu.Unlock()
		select {
		case <-awake:
		case <-l.closed:
			return nil, net.ErrClosed
		}
		c, err := l.TCPListener.Accept()
		if !errors.Is(err, os.ErrDeadlineExceeded) { // it was sent to rest
			return c, err
		}
	}
}

// Close closes this process's copy of the socket.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.TCPListener.Close()
}

// rest stops accepting. The socket stays open, and what arrives waits in it for whoever accepts.
func (l *listener) rest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.awake:
		l.awake = make(chan struct{})
		_ = l.SetDeadline(time.Unix(1, 0)) // only a closed listener has none, and rests anyway
	default:
	}
}

// wake goes on accepting.
func (l *listener) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.awake:
	default:
		_ = l.SetDeadline(time.Time{}) // as above
		close(l.awake)
	}
}

// Listen is net.ListenConfig's, but takes the socket over from an older agent where that has given it. What it returns
// can be handed over in turn.
func (l *Line) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	l.mu.Lock()
	open, inherited := l.inherited[address]
	delete(l.inherited, address)
	l.mu.Unlock()
	if !inherited {
		var err error
		if open, err = new(net.ListenConfig).Listen(ctx, network, address); err != nil {
			return nil, err
		}
	}
	socket, ok := open.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen on %s: only TCP can be handed over", address), open.Close())
	}
	out := newListener(socket)
	l.mu.Lock()
	l.listeners[address] = out
	l.mu.Unlock()
	return out, nil
}

// find returns the listeners that are wanted and that there are.
func (l *Line) find(asked []wanted) (found []wanted, open []*listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range asked {
		if o := l.listeners[w.Address]; o != nil && len(found) < maxListeners {
			found, open = append(found, w), append(open, o)
		}
	}
	return found, open
}
