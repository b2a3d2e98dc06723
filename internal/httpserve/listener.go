// The bounded listener: how many connections there may be, and which one is closed for another.

package httpserve

import (
	"errors"
	"iter"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound the connections of a listener. All fields must be set.
type Limits struct {
	// Total is the number of open connections, PerSource that of one source.
	Total, PerSource int
	// ReadBuffer and WriteBuffer are the bytes that the kernel buffers for a connection, in each
	// direction. Linux reserves twice as much. Without them it buffers several megabytes for a
	// client that sends without pause or does not read.
	ReadBuffer, WriteBuffer int
	// EqualHosts means that processes of the same host have no precedence: each connection looks like
	// one of them.
	EqualHosts bool
}

// minIdle is how long a connection without a request is kept, even if others need its place. It is
// more than a client needs to send its request.
const minIdle = time.Second

// Listener is a net.Listener that keeps to its limits.
//
//   - A source that has PerSource connections gets another one only in place of one that the client
//     has closed, or of its longest idle one.
//   - When Total are open, the source with the most of them loses one to a source that has fewer.
//   - When no source has more than another, a source without a connection gets the place of the
//     longest idle one.
//   - A process of the same host, such as the kubelet with its probes, always gets a place, unless
//     the limits say EqualHosts.
//
// Everything else is closed at once. Accept may be called by one goroutine at a time, the other
// methods by any.
type Listener struct {
	net.Listener
	limits Limits
	source func(net.Conn) string

	mu      sync.Mutex
	open    int
	sources map[string]map[*Conn]struct{}
}

// NewListener returns a listener that accepts the connections of l within the limits. A connection
// counts for the source that the function names; nil means RemoteIP.
func NewListener(l net.Listener, limits Limits, source func(net.Conn) string) *Listener {
	if source == nil {
		source = RemoteIP
	}
	return &Listener{Listener: l, limits: limits, source: source, sources: map[string]map[*Conn]struct{}{}}
}

// RemoteIP returns the IP address of a connection's client. All connections that have none are of
// one source.
func RemoteIP(c net.Conn) string {
	remote, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	return remote.AddrPort().Addr().Unmap().WithZone("").String()
}

// Accept returns the next connection within the limits.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &Conn{Conn: raw, listener: l, source: l.source(raw)}
		c.idleSince.Store(time.Now().UnixNano())
		evicted, ok := l.admit(c)
		if evicted != nil {
			_ = evicted.Close() // an error does not matter: the connection is abandoned
		}
		if !ok {
			_ = raw.Close() // nothing was sent or received yet
			continue
		}
		l.limits.setBuffers(raw)
		return c, nil
	}
}

// setBuffers bounds the kernel's buffers of a connection, where it has any.
func (l Limits) setBuffers(c net.Conn) {
	for c != nil {
		if b, ok := c.(interface {
			SetReadBuffer(int) error
			SetWriteBuffer(int) error
		}); ok {
			// An error means that the client has already left. The next read reports it.
			_ = b.SetReadBuffer(l.ReadBuffer)
			_ = b.SetWriteBuffer(l.WriteBuffer)
			return
		}
		wrapper, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return // a connection of a test, within the process
		}
		c = wrapper.NetConn()
	}
}

// admit gives a connection a place. It returns the connection to close for it, if any.
func (l *Listener) admit(c *Conn) (evicted *Conn, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.sources[c.source]
	switch {
	case len(own) >= l.limits.PerSource:
		if evicted = closedByClient(maps.Keys(own)); evicted == nil {
			evicted = longestIdle(maps.Keys(own), minIdle)
		}
	case l.open < l.limits.Total:
		l.add(c)
		return nil, true
	default:
		if evicted = l.ofGreediest(len(own) + 1); evicted == nil && len(own) == 0 {
			evicted = longestIdle(l.all(), minIdle)
		}
		if evicted == nil && !l.limits.EqualHosts && sameHost(c.Conn) {
			evicted = l.ofOthers(c.source)
		}
	}
	if evicted == nil {
		return nil, false
	}
	l.remove(evicted)
	l.add(c)
	return evicted, true
}

// ofGreediest returns a connection of the source that has most, if it has more than least: the one
// that is idle for longest, or any if none is.
func (l *Listener) ofGreediest(least int) *Conn {
	var most map[*Conn]struct{}
	for _, conns := range l.sources {
		if len(conns) > max(least, len(most)) {
			most = conns
		}
	}
	if c := longestIdle(maps.Keys(most), 0); c != nil {
		return c
	}
	for c := range most {
		return c
	}
	return nil
}

// sameHost reports whether both ends of a connection have one IP address.
func sameHost(c net.Conn) bool {
	local, ok1 := c.LocalAddr().(*net.TCPAddr)
	remote, ok2 := c.RemoteAddr().(*net.TCPAddr)
	return ok1 && ok2 && (remote.IP.IsLoopback() || remote.IP.Equal(local.IP))
}

// ofOthers returns a connection of another source: the one that is idle for longest, or any if
// none is. It returns nil if there is no other source.
func (l *Listener) ofOthers(source string) *Conn {
	var others []*Conn
	for c := range l.all() {
		if c.source != source {
			others = append(others, c)
		}
	}
	if c := longestIdle(slices.Values(others), 0); c != nil || len(others) == 0 {
		return c
	}
	return others[0]
}

// longestIdle returns the connection that is idle for longest, and for at least so long; nil if
// there is none.
func longestIdle(conns iter.Seq[*Conn], atLeast time.Duration) *Conn {
	var found *Conn
	earliest := time.Now().Add(-atLeast).UnixNano()
	for c := range conns {
		if since := c.idleSince.Load(); since != 0 && since <= earliest {
			found, earliest = c, since
		}
	}
	return found
}

// all returns the open connections of all sources.
func (l *Listener) all() iter.Seq[*Conn] {
	return func(yield func(*Conn) bool) {
		for _, conns := range l.sources {
			for c := range conns {
				if !yield(c) {
					return
				}
			}
		}
	}
}

func (l *Listener) add(c *Conn) {
	own := l.sources[c.source]
	if own == nil {
		own = map[*Conn]struct{}{}
		l.sources[c.source] = own
	}
	own[c] = struct{}{}
	l.open++
}

// remove frees a connection's place. A second call does nothing.
func (l *Listener) remove(c *Conn) {
	own := l.sources[c.source]
	if _, found := own[c]; !found {
		return
	}
	l.open--
	if delete(own, c); len(own) == 0 {
		delete(l.sources, c.source)
	}
}

// Conn is a connection of a Listener.
type Conn struct {
	net.Conn
	listener *Listener
	source   string
	// idleSince is when the last request was answered, or the connection accepted, in Unix
	// nanoseconds; 0 while a request is being answered. A request that is still being received
	// counts as idle: it may never be complete.
	idleSince atomic.Int64
	// responseTime bounds a response, from its first byte on; 0 is no bound. responding is set from
	// then until the next request.
	responseTime time.Duration
	responding   atomic.Bool

	reads, writes deadline
	rest          int // requests until others get their turn; of the goroutine that serves
}

// NetConn returns the connection that the Listener's own listener accepted.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Close closes the connection and frees its place.
func (c *Conn) Close() error {
	c.listener.mu.Lock()
	c.listener.remove(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the time at which a Read fails.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.reads.ask(t, c.Conn.SetReadDeadline) }

// SetWriteDeadline sets the time at which a Write fails.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.writes.ask(t, c.Conn.SetWriteDeadline) }

// Read reads a part of a request. It may be called by one goroutine at a time.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		if err := c.reads.begin(c.Conn.SetReadDeadline); err != nil {
			return 0, err
		}
		n, err := c.Conn.Read(p)
		switch again := c.reads.end(isLate(err)); {
		case !again:
			return n, err
		case n > 0:
			return n, nil
		}
	}
}

// Write writes a part of a response, within the time that is left for it. It may be called by one
// goroutine at a time.
func (c *Conn) Write(p []byte) (int, error) {
	if c.responseTime > 0 && c.responding.CompareAndSwap(false, true) {
		if err := c.SetWriteDeadline(time.Now().Add(c.responseTime)); err != nil {
			return 0, err
		}
	}
	for written := 0; ; {
		if err := c.writes.begin(c.Conn.SetWriteDeadline); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(p[written:])
		written += n
		if again := c.writes.end(isLate(err)); !again {
			if string(p) == interim {
				c.responding.Store(false)
			}
			return written, err
		}
	}
}

// interim is what net/http answers to "Expect: 100-continue". The response itself comes later.
const interim = "HTTP/1.1 100 Continue\r\n\r\n"

func isLate(err error) bool { return err != nil && errors.Is(err, os.ErrDeadlineExceeded) }

// beginRequest records that a request was received.
func (c *Conn) beginRequest() {
	c.idleSince.Store(0)
	c.responding.Store(false)
}

// endRequest records that a request was answered.
func (c *Conn) endRequest() { c.idleSince.Store(time.Now().UnixNano()) }

// turn is how many requests of a connection are answered before others get their turn.
const turn = 4

// takesTurn reports whether others are to get their turn after a request. A client that sends one
// after the other without waiting keeps its goroutine running, and others would wait for whole time
// slices.
func (c *Conn) takesTurn() bool {
	if c.rest--; c.rest > 0 {
		return false
	}
	c.rest = turn
	return true
}
