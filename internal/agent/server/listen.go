// Serving a listener, within limits of time.

package server

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/httpserve"
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

// The times of an HTTP server of the agent's. There is no bound on answering a request: it may be
// held.
const (
	readHeaderTime = 10 * time.Second
	idleTime       = 2 * time.Minute
	// responseTime bounds sending a response. Responses are a few kilobytes, which the kernel
	// buffers at once unless the client has stopped reading.
	responseTime = 10 * time.Second
	// shutdownTime is what requests under way get when the agent ends.
	shutdownTime = 5 * time.Second
)

// Serve serves connections of l by handler until ctx ends, then lets requests
// under way finish for a few seconds.
func Serve(ctx context.Context, l net.Listener, handler http.HandlerFunc, limit Connections, log logr.Logger) error {
	server := &httpserve.Server{
		Handler:      handler,
		Limits:       limit.limits(),
		Source:       addressOf,
		HeaderTime:   readHeaderTime,
		BodyTime:     bodyTime,
		IdleTime:     idleTime,
		ResponseTime: responseTime,
		Grace:        shutdownTime,
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			c, _ := connOf(nc)
			return context.WithValue(ctx, connectionKey{}, c)
		},
		ConnState: noteState,
		Log:       log,
	}
	return server.Serve(ctx, &origins{Listener: l, brake: newBrake(), ports: newPorts()})
}

func equalTrue(value string) bool { return ascii.EqualFold(strings.TrimSpace(value), "true") }

func jsonType() []string { return []string{imds.ContentType} }
