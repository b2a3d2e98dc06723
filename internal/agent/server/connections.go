// Where a connection comes from, and the connections of callers that were stopped by the brake.

package server

import (
	"net"
	"net/http"
	"sync/atomic"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/httpserve"
)

// Connections bounds the connections of a listener, in all and from one address. Each costs some
// 15 kB of the agent's memory, and up to 48 kB of the kernel's.
type Connections struct{ Most, MostPerAddress int }

// The kernel's buffers of a connection. A request is a kilobyte or two, a token 2 to 4 kB.
const (
	readBuffer  = 8 << 10
	writeBuffer = 16 << 10
)

func (c Connections) limits() httpserve.Limits {
	return httpserve.Limits{Total: c.Most, PerSource: c.MostPerAddress, ReadBuffer: readBuffer, WriteBuffer: writeBuffer}
}

// origins is a listener whose connections have an origin. Those of addresses that the brake has
// locked out are closed at once.
type origins struct {
	net.Listener
	brake *brake
	ports *ports
}

// Accept returns the next connection.
func (l *origins) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: raw, from: originOf(raw, l.ports), brake: l.brake}
		if !l.brake.locked(c.from.Addr) {
			return c, nil
		}
		_ = raw.Close() // nothing was sent or received yet
	}
}

// conn is a connection with an origin.
type conn struct {
	net.Conn
	from  attest.Origin
	brake *brake
	// asked is whether there was a whole request.
	asked atomic.Bool
}

// NetConn returns the connection that was accepted.
func (c *conn) NetConn() net.Conn { return c.Conn }

// connOf returns the origin's connection of one that httpserve serves.
func connOf(nc net.Conn) (*conn, bool) {
	bounded, ok := nc.(*httpserve.Conn)
	if !ok {
		return nil, false
	}
	c, ok := bounded.NetConn().(*conn)
	return c, ok
}

// addressOf returns what a connection counts for: the address it comes from.
func addressOf(nc net.Conn) string {
	if c, ok := nc.(*conn); ok {
		return c.from.String()
	}
	return ""
}

// noteState counts connections that end without a request.
func noteState(nc net.Conn, state http.ConnState) {
	c, ok := connOf(nc)
	if !ok {
		return
	}
	switch state {
	case http.StateActive:
		c.asked.Store(true)
	case http.StateClosed:
		if !c.asked.Load() {
			c.brake.count(c.from.Addr, "")
		}
	case http.StateNew, http.StateIdle, http.StateHijacked:
	}
}

// originOf returns where a connection comes from.
func originOf(c net.Conn, p *ports) attest.Origin {
	remote, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return attest.Origin{} // no pod has it, so it gets nothing
	}
	a := remote.AddrPort().Addr().Unmap().WithZone("")
	return attest.Origin{Addr: a, Link: p.behind(linkOf(c), a)}
}
