// Connections: who is at the other end, and how many there may be.

package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/imds"
)

type addr = netip.Addr

// addressKey is where a connection's context keeps its peer's address.
type addressKey struct{}

// callerAddress is the address at the other end of the connection, read from
// the connection itself when it was accepted.
func callerAddress(r *http.Request) addr {
	a, _ := r.Context().Value(addressKey{}).(addr)
	return a
}

func peer(c net.Conn) addr {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return addr{} // nobody has it, so nobody gets anything
	}
	return ap.Addr().Unmap()
}

// Limits of an HTTP server of ours.
const (
	readHeaderTime = 10 * time.Second
	idleTime       = 2 * time.Minute
	maxHeader      = 16 << 10
	// shutdownTime is what requests under way get when the agent ends.
	shutdownTime = 5 * time.Second
	// writeTime is on top of the longest hold.
	writeTime = 30 * time.Second
)

// Connections bounds the connections of a listener, in all and from one address.
// A connection costs some 15 kB.
type Connections struct{ Most, MostPerAddress int }

// Serve serves connections of l by handler until ctx ends, then lets requests
// under way finish for a few seconds. longest is the longest a request is held.
func Serve(ctx context.Context, l net.Listener, handler http.HandlerFunc, limit Connections, longest time.Duration, log logr.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTime,
		// No ReadTimeout: it would end requests that are being held.
		WriteTimeout:                 longest + writeTime,
		IdleTimeout:                  idleTime,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(logr.ToSlogHandler(log.V(2)), slog.LevelInfo),
		BaseContext:                  func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, addressKey{}, peer(c))
		},
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		stopped <- errors.Join(ignore(server.Shutdown(bounded), context.DeadlineExceeded), ignore(server.Close(), net.ErrClosed))
	}()
	err := server.Serve(&bounded{Listener: l, limit: limit, open: map[addr]int{}})
	if ctx.Err() == nil {
		return err
	}
	return <-stopped
}

func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}

// bounded is a listener that closes connections beyond its limits at once.
type bounded struct {
	net.Listener
	limit Connections

	mu   sync.Mutex
	all  int
	open map[addr]int
}

// Accept returns the next connection within the limits.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := peer(c)
		if b.admit(from) {
			return &counted{Conn: c, done: sync.OnceFunc(func() { b.leave(from) })}, nil
		}
		_ = c.Close() // nothing was said, so nothing is lost
	}
}

func (b *bounded) admit(from addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all >= b.limit.Most || b.open[from] >= b.limit.MostPerAddress {
		return false
	}
	b.all++
	b.open[from]++
	return true
}

func (b *bounded) leave(from addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all--
	if b.open[from]--; b.open[from] <= 0 {
		delete(b.open, from)
	}
}

// counted is a connection that tells when it is closed.
type counted struct {
	net.Conn
	done func()
}

// Close closes the connection.
func (c *counted) Close() error {
	c.done()
	return c.Conn.Close()
}

func equalTrue(value string) bool { return strings.EqualFold(strings.TrimSpace(value), "true") }

func jsonType() []string { return []string{imds.ContentType} }
