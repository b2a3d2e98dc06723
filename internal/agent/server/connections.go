// How many connections there may be, and who must give way.

package server

import (
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podid-io/podid/internal/agent/attest"
)

// Connections bounds the connections of a listener, in all and from one address.
// A connection costs some 15 kB.
type Connections struct{ Most, MostPerAddress int }

// writeTime bounds each write to a client. Replies are a few kilobytes, which
// the kernel takes over at once, unless the client has long stopped reading.
const writeTime = 10 * time.Second

// bounded is a listener that keeps to its limits. Connections of one address
// beyond its share are closed at once. When all places are taken, whoever has
// most gives way to those that have less: pods cannot starve each other, however
// many of them conspire.
type bounded struct {
	net.Listener
	limit Connections
	brake *brake
	ports *ports

	mu   sync.Mutex
	all  int
	open map[netip.Addr]map[*conn]struct{}
}

func newBounded(l net.Listener, limit Connections, b *brake) *bounded {
	return &bounded{Listener: l, limit: limit, brake: b, ports: newPorts(), open: map[netip.Addr]map[*conn]struct{}{}}
}

// Accept returns the next connection within the limits.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		raw, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: raw, from: originOf(raw, b.ports), pool: b}
		c.idle.Store(time.Now().UnixNano())
		evicted, ok := b.admit(c)
		if evicted != nil {
			_ = evicted.Close() // it was told to go; how it goes is no matter
		}
		if ok {
			return c, nil
		}
		_ = raw.Close() // nothing was said, so nothing is lost
	}
}

// admit gives a connection a place, and returns which one it takes that from.
func (b *bounded) admit(c *conn) (evicted *conn, ok bool) {
	if b.brake.locked(c.from.Addr) {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.open[c.from.Addr]
	if len(own) >= b.limit.MostPerAddress {
		return nil, false
	}
	if b.all >= b.limit.Most {
		if evicted = b.greediest(len(own) + 1); evicted == nil {
			return nil, false
		}
		b.remove(evicted)
	}
	if own = b.open[c.from.Addr]; own == nil {
		own = map[*conn]struct{}{}
		b.open[c.from.Addr] = own
	}
	own[c] = struct{}{}
	b.all++
	return evicted, true
}

// greediest returns the connection to close of the address that has most, if
// that is more than least: the one without a request for longest, else any.
func (b *bounded) greediest(least int) *conn {
	var most map[*conn]struct{}
	for _, conns := range b.open {
		if len(conns) > least && len(conns) > len(most) {
			most = conns
		}
	}
	var found *conn
	var since int64
	for c := range most {
		idle := c.idle.Load()
		if found == nil || idle != 0 && (since == 0 || idle < since) {
			found, since = c, idle
		}
	}
	return found
}

func (b *bounded) leave(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.remove(c)
}

// remove gives a connection's place back, once.
func (b *bounded) remove(c *conn) {
	own := b.open[c.from.Addr]
	if _, there := own[c]; !there {
		return
	}
	b.all--
	if delete(own, c); len(own) == 0 {
		delete(b.open, c.from.Addr)
	}
}

// conn is a connection with a place.
type conn struct {
	net.Conn
	from attest.Origin
	pool *bounded
	// idle is since when no request of it is being answered, in Unix
	// nanoseconds; 0 while one is. A request that is still being sent does not
	// count: it may never be finished.
	idle atomic.Int64
	// asked tells that there was a whole request.
	asked atomic.Bool
}

// Close closes the connection.
func (c *conn) Close() error {
	c.pool.leave(c)
	return c.Conn.Close()
}

// Write writes within writeTime.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// noteState follows what net/http does with a connection.
func noteState(nc net.Conn, state http.ConnState) {
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	switch state {
	case http.StateActive:
		c.idle.Store(0)
		c.asked.Store(true)
	case http.StateIdle:
		c.idle.Store(time.Now().UnixNano())
		// A client that sends request behind request without waiting never lets
		// its goroutine rest, so others' would wait for whole time slices.
		runtime.Gosched()
	case http.StateClosed:
		if !c.asked.Load() {
			c.pool.brake.count(c.from.Addr)
		}
	}
}

// originOf is where a connection comes from.
func originOf(c net.Conn, p *ports) attest.Origin {
	remote, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return attest.Origin{} // nobody has it, so nobody gets anything
	}
	a := remote.AddrPort().Addr().Unmap().WithZone("")
	return attest.Origin{Addr: a, Link: p.behind(linkOf(c), a)}
}
