// Probes, metrics and profiles over HTTP. They are served from the start to the
// end, whoever leads.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	crmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/podid-io/podid/internal/observe"
)

// profileAddress is v1.8.17's.
const profileAddress = "localhost:6060"

// shutdownTimeout is how long requests under way may take when the program ends.
const shutdownTimeout = 3 * time.Second

type endpoint struct {
	listener net.Listener
	handler  http.Handler
}

type servers []endpoint

// listen opens all ports, or none.
func listen(ctx context.Context, o *options, health *observe.Health) (servers, error) {
	metrics := http.NewServeMux()
	metrics.Handle("/metrics", promhttp.HandlerFor(crmetrics.Registry, promhttp.HandlerOpts{}))
	wanted := []struct {
		what, flag, address string
		handler             http.Handler
	}{
		{"probes", "--http-probe-port", ":" + o.servers.probePort, health.Handler()},
		{"metrics", "--prometheus-port", ":" + o.servers.metricsPort, metrics},
	}
	if o.profile {
		wanted = append(wanted, struct {
			what, flag, address string
			handler             http.Handler
		}{"profiles", "--enableProfile", profileAddress, profiles()})
	}
	var s servers
	for _, w := range wanted {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", w.address)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("serve %s (%s): %w: is another program using the port?", w.what, w.flag, err)
		}
		logr.FromContextOrDiscard(ctx).Info("serving "+w.what, "address", listener.Addr().String())
		s = append(s, endpoint{listener, w.handler})
	}
	return s, nil
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

func (s servers) close() {
	for _, e := range s {
		_ = e.listener.Close() // nothing was served on it yet
	}
}

// serve serves until the context ends.
func (s servers) serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, e := range s {
		server := &http.Server{Handler: e.handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
		group.Go(func() error {
			if err := server.Serve(e.listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve on %s: %w", e.listener.Addr(), err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
			defer cancel()
			return server.Shutdown(ctx)
		})
	}
	return group.Wait()
}
