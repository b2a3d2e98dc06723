// Package httpserve serves HTTP to untrusted clients within limits: the number of connections, the
// bytes that each of them uses, and the time of each step of a request. It serves every listener of
// mic and nmi.
package httpserve

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/go-logr/logr"
)

// Server configures how a listener is served. Handler, Limits and the times must be set, except
// where noted.
type Server struct {
	Handler http.Handler
	Limits  Limits
	// Source names the source of a connection, which PerSource and the choice of what to close
	// depend on; nil means RemoteIP.
	Source func(net.Conn) string

	// HeaderTime bounds receiving a request's header, BodyTime its body, IdleTime the pause between
	// two requests.
	HeaderTime, BodyTime, IdleTime time.Duration
	// AnswerTime bounds a request from the end of its header to the last byte of the response;
	// 0 if handlers may wait for as long as they like.
	AnswerTime time.Duration
	// ResponseTime bounds sending a response, from its first byte to the last. Set it where
	// AnswerTime is 0.
	ResponseTime time.Duration
	// Grace is how long requests that are being answered may go on when the server ends.
	Grace time.Duration

	// ConnContext and ConnState are http.Server's, nil for none. They get a *Conn.
	ConnContext func(context.Context, net.Conn) context.Context
	ConnState   func(net.Conn, http.ConnState)
	// Log gets what net/http says about connections.
	Log logr.Logger
}

// maxHeader bounds a request's header.
const maxHeader = 16 << 10

// Serve serves the connections of l until ctx ends, then lets the requests that are being answered
// finish within the grace time. It returns nil after that, else why l broke.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.limitBody(s.Handler),
		ReadHeaderTimeout: s.HeaderTime,
		// No ReadTimeout: it would go on while the request is answered. See limitBody.
		WriteTimeout:                 s.AnswerTime,
		IdleTimeout:                  s.IdleTime,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(logr.ToSlogHandler(s.Log.V(2)), slog.LevelInfo),
		BaseContext:                  func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnContext:                  s.ConnContext,
		ConnState:                    s.followState,
	}
	stopped := make(chan error, 1)
	served := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
		case <-served: // l broke
		}
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Grace)
		defer cancel()
		stopped <- errors.Join(ignore(server.Shutdown(grace), context.DeadlineExceeded), ignore(server.Close(), net.ErrClosed))
	}()
	err := server.Serve(NewListener(l, s.Limits, s.Source))
	close(served)
	if ctx.Err() == nil {
		return errors.Join(err, <-stopped)
	}
	return <-stopped
}

func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}

// limitBody bounds the time for a request's body, whether the handler reads it or net/http does
// later. A handler that has read the whole body may take the read deadline away.
func (s *Server) limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// Only a writer that is not net/http's has no deadline.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.BodyTime))
		}
		next.ServeHTTP(w, r)
	})
}

// followState keeps a Conn up to date.
func (s *Server) followState(nc net.Conn, state http.ConnState) {
	if c, ok := nc.(*Conn); ok {
		switch state {
		case http.StateNew:
			c.responseTime, c.rest = s.ResponseTime, turn
		case http.StateActive:
			c.beginRequest()
		case http.StateIdle:
			if c.endRequest(); c.takesTurn() {
				runtime.Gosched()
			}
		case http.StateClosed, http.StateHijacked:
		}
	}
	if s.ConnState != nil {
		s.ConnState(nc, state)
	}
}
