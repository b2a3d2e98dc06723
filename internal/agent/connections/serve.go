// Package connections serves HTTP to the pods and to processes of the host: within limits of number
// and time, and with the origin of each connection.
package connections

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/penalty"
	"github.com/podid-io/podid/internal/httpserve"
)

// Limits bound the connections of a listener, in all and from one source. Each connection costs
// some 15 kB of the agent's memory and up to 48 kB of the kernel's.
type Limits struct {
	Total, PerSource int
	// EqualHosts is httpserve.Limits'.
	EqualHosts bool
}

// The kernel's buffers of a connection. A request has 1 to 2 kB, a token 2 to 4 kB.
const (
	readBuffer  = 8 << 10
	writeBuffer = 16 << 10
)

// The time limits of a connection. Answering a request has none, because requests may wait for an
// identity.
const (
	headerTime = 10 * time.Second
	idleTime   = 2 * time.Minute
	// BodyTime bounds receiving the body that a GET should not have.
	BodyTime = 5 * time.Second
	// responseTime bounds sending a response. Responses are a few kilobytes, which the kernel
	// buffers at once unless the client has stopped reading.
	responseTime = 10 * time.Second
	// shutdownTime is what requests in flight get when the agent stops.
	shutdownTime = 5 * time.Second
)

// Serve serves the connections of l, whose origins it gets from origins, until ctx ends, then lets
// requests in flight finish within shutdownTime.
func Serve(ctx context.Context, l net.Listener, origins Origins, handler http.HandlerFunc, limits Limits, log logr.Logger) error {
	server := &httpserve.Server{
		Handler:      handler,
		Limits:       httpserve.Limits{Total: limits.Total, PerSource: limits.PerSource, ReadBuffer: readBuffer, WriteBuffer: writeBuffer, EqualHosts: limits.EqualHosts},
		Source:       source,
		HeaderTime:   headerTime,
		BodyTime:     BodyTime,
		IdleTime:     idleTime,
		ResponseTime: responseTime,
		Grace:        shutdownTime,
		ConnContext:  withConn,
		ConnState:    penalizeSilent,
		Log:          log,
	}
	return server.Serve(ctx, &listener{Listener: l, penalties: penalty.New[attest.Source](), origins: origins})
}
