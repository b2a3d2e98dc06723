// Counting open connections.

package lifecycle

import (
	"net"
	"sync"
	"syscall"
)

// connCounter counts open connections.
type connCounter struct {
	mu   sync.Mutex
	open int
	none chan struct{} // closed when open becomes 0
}

func (c *connCounter) add() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
}

func (c *connCounter) remove() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open--; c.open == 0 {
		close(c.none)
		c.none = make(chan struct{})
	}
}

// state returns the count, and a channel that is closed when it becomes 0.
func (c *connCounter) state() (int, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open, c.none
}

// Count returns a listener whose connections are drained by Stop.
func (l *Lifecycle) Count(listener net.Listener) net.Listener {
	return counted{listener, &l.open}
}

// counted is a listener whose connections are counted.
type counted struct {
	net.Listener
	counter *connCounter
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
	l.counter.add()
	return &countedConn{socketConn: socket, done: sync.OnceFunc(l.counter.remove)}, nil
}

// socketConn is a connection with a socket, which attest asks the kernel about.
type socketConn interface {
	net.Conn
	syscall.Conn
}

// countedConn is a connection that calls done when it is closed.
type countedConn struct {
	socketConn
	done func()
}

// NetConn returns the connection that was accepted.
func (c *countedConn) NetConn() net.Conn { return c.socketConn }

// Close closes the connection.
func (c *countedConn) Close() error {
	c.done()
	return c.socketConn.Close()
}
