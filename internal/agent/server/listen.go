// Serving a listener, within limits of time.

package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/imds"
)

// addr is where a request came from.
type addr = attest.Origin

// connectionKey is where a connection's context keeps the connection.
type connectionKey struct{}

// connectionOf is the connection a request came by, nil in tests without one.
func connectionOf(r *http.Request) *conn {
	c, _ := r.Context().Value(connectionKey{}).(*conn)
	return c
}

// callerAddress is the other end of the connection, read from the connection
// itself when it was accepted.
func callerAddress(r *http.Request) addr {
	if c := connectionOf(r); c != nil {
		return c.from
	}
	return addr{} // nobody has it, so nobody gets anything
}

// Limits of an HTTP server of ours.
const (
	readHeaderTime = 10 * time.Second
	idleTime       = 2 * time.Minute
	maxHeader      = 16 << 10
	// shutdownTime is what requests under way get when the agent ends.
	shutdownTime = 5 * time.Second
)

// Serve serves connections of l by handler until ctx ends, then lets requests
// under way finish for a few seconds.
func Serve(ctx context.Context, l net.Listener, handler http.HandlerFunc, limit Connections, log logr.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTime,
		// No ReadTimeout: it would end requests that are being held. No
		// WriteTimeout either: it counts from the request, too; see conn.Write.
		IdleTimeout:                  idleTime,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(logr.ToSlogHandler(log.V(2)), slog.LevelInfo),
		BaseContext:                  func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnState:                    noteState,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, c)
		},
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		stopped <- errors.Join(ignore(server.Shutdown(bounded), context.DeadlineExceeded), ignore(server.Close(), net.ErrClosed))
	}()
	err := server.Serve(newBounded(l, limit, newBrake()))
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

func equalTrue(value string) bool { return strings.EqualFold(strings.TrimSpace(value), "true") }

func jsonType() []string { return []string{imds.ContentType} }
