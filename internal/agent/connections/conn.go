// The pods' connections: where each comes from, and which are closed at once.

package connections

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/penalty"
	"github.com/podid-io/podid/internal/httpserve"
)

// Origins determines where connections come from. *attest.Origins implements it for connections
// that were redirected.
type Origins interface {
	Of(c net.Conn) attest.Origin
}

// listener determines the origin of each connection, and closes those of blocked sources.
type listener struct {
	net.Listener
	penalties *penalty.Penalties[attest.Source]
	origins   Origins
}

// Accept returns the next connection of a source that is not blocked.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &Conn{Conn: raw, Origin: l.origins.Of(raw), penalties: l.penalties}
		if !l.penalties.Blocked(c.Origin.Source()) {
			return c, nil
		}
		_ = raw.Close() // nothing was sent or received yet
	}
}

// Conn is a connection and its origin.
type Conn struct {
	net.Conn
	Origin    attest.Origin
	penalties *penalty.Penalties[attest.Source]
	// requested is set once a whole request was received.
	requested atomic.Bool
}

// NetConn returns the connection that was accepted.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Penalize counts a bad request of a pod in the namespace, "" if it is unknown. It delays the
// response to a pod that sends too many.
func (c *Conn) Penalize(ctx context.Context, namespace string, stopping <-chan struct{}) {
	c.penalties.Delay(ctx, c.Origin.Source(), namespace, stopping)
}

// InterfaceGone reports whether the network interface that the connection came in by was deleted.
func (c *Conn) InterfaceGone() bool { return attest.InterfaceGone(c.Conn, c.Origin.Link) }

// contextKey is the key of a connection in the context of its requests.
type contextKey struct{}

// Of returns the connection of a request. It is nil in tests without a connection.
func Of(r *http.Request) *Conn {
	c, _ := r.Context().Value(contextKey{}).(*Conn)
	return c
}

// OriginOf returns where a request came from. Without a connection it is the zero Origin, which no
// pod matches.
func OriginOf(r *http.Request) attest.Origin {
	if c := Of(r); c != nil {
		return c.Origin
	}
	return attest.Origin{}
}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, contextKey{}, unwrap(nc))
}

// unwrap returns the Conn in a connection of httpserve, nil if there is none.
func unwrap(nc net.Conn) *Conn {
	bounded, ok := nc.(*httpserve.Conn)
	if !ok {
		return nil
	}
	c, _ := bounded.NetConn().(*Conn)
	return c
}

// source returns what the limit per source counts a connection for.
func source(nc net.Conn) string {
	if c, ok := nc.(*Conn); ok {
		return c.Origin.String()
	}
	return ""
}

// penalizeSilent counts connections that are closed without a request.
func penalizeSilent(nc net.Conn, state http.ConnState) {
	c := unwrap(nc)
	if c == nil {
		return
	}
	switch state {
	case http.StateActive:
		c.requested.Store(true)
	case http.StateClosed:
		if !c.requested.Load() {
			c.penalties.Add(c.Origin.Source(), "")
		}
	case http.StateNew, http.StateIdle, http.StateHijacked:
	}
}
