// Probes, metrics and profiles over HTTP.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// profileAddress is v1.8.17's.
const profileAddress = "localhost:6060"

// endpointTime is how long their requests may take when the program ends.
const endpointTime = 3 * time.Second

type endpoint struct {
	listener net.Listener
	handler  http.Handler
}

type endpoints []endpoint

// listen opens all ports, or none.
func (a *agent) listen(ctx context.Context) (endpoints, error) {
	metrics := http.NewServeMux()
	metrics.Handle("/metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	type wanted struct {
		what, flag, address string
		handler             http.Handler
	}
	list := []wanted{
		{"probes", "--http-probe-port", anyAddress(a.o.ports.probe), a.health.Handler()},
		{"metrics", "--prometheus-port", anyAddress(a.o.ports.metrics), metrics},
	}
	if a.o.profile {
		list = append(list, wanted{"profiles", "--enableProfile", profileAddress, profiles()})
	}
	var open endpoints
	for _, w := range list {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", w.address)
		if err != nil {
			for _, e := range open {
				_ = e.listener.Close() // nothing was served on it yet
			}
			return nil, fmt.Errorf("serve %s (%s): %w: is another program using the port?", w.what, w.flag, err)
		}
		a.log.Info("serving "+w.what, "address", l.Addr().String())
		open = append(open, endpoint{l, w.handler})
	}
	return open, nil
}

// profiles are net/http/pprof's, on a mux of our own.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// serve serves until the context ends.
func (list endpoints) serve(ctx context.Context, group *errgroup.Group) {
	for _, e := range list {
		server := &http.Server{Handler: e.handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
		group.Go(func() error {
			if err := server.Serve(e.listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve on %s: %w", e.listener.Addr(), err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), endpointTime)
			defer cancel()
			if err := server.Shutdown(bounded); !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			return server.Close()
		})
	}
}
