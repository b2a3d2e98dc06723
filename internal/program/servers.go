// Probes, metrics and profiles over HTTP.

package program

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/podid-io/podid/internal/observe"
)

// profileAddress is v1.8.17's.
const profileAddress = "localhost:6060"

// shutdownTimeout is how long requests under way may take when the program ends.
const shutdownTimeout = 3 * time.Second

type endpoint struct {
	what, flag, address string
	handler             http.Handler
	listener            net.Listener
}

// Servers are open ports.
type Servers []endpoint

// Opener opens ports; a net.ListenConfig does.
type Opener interface {
	Listen(ctx context.Context, network, address string) (net.Listener, error)
}

// Addresses are those that Listen opens.
func (o *Options) Addresses() []string {
	all := []string{":" + o.ProbePort, ":" + o.MetricsPort}
	if o.Profile {
		all = append(all, profileAddress)
	}
	return all
}

// Listen opens all ports, or none, and tells the log their addresses.
func (o *Options) Listen(ctx context.Context, health *observe.Health, metrics prometheus.Gatherer) (Servers, error) {
	return o.ListenWith(ctx, &net.ListenConfig{}, health, metrics)
}

// ListenWith is Listen for a program whose ports are opened in a way of its own.
func (o *Options) ListenWith(ctx context.Context, opener Opener, health *observe.Health, metrics prometheus.Gatherer) (Servers, error) {
	// Whoever scrapes costs memory; four at a time are more than there are.
	scrapes := http.NewServeMux()
	scrapes.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	wanted := Servers{
		{what: "probes", flag: "--http-probe-port", address: ":" + o.ProbePort, handler: health.Handler()},
		{what: "metrics", flag: "--prometheus-port", address: ":" + o.MetricsPort, handler: scrapes},
	}
	if o.Profile {
		wanted = append(wanted, endpoint{what: "profiles", flag: "--enableProfile", address: profileAddress, handler: profiles()})
	}
	for i := range wanted {
		s := &wanted[i]
		listener, err := opener.Listen(ctx, "tcp", s.address)
		if err != nil {
			for _, open := range wanted[:i] {
				_ = open.listener.Close() // nothing was served on it yet
			}
			return nil, fmt.Errorf("serve %s (%s): %w: is another program using the port?", s.what, s.flag, err)
		}
		logr.FromContextOrDiscard(ctx).Info("serving "+s.what, "address", listener.Addr().String())
		s.listener = listener
	}
	return wanted, nil
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

// Serve serves in the group until the context ends.
func (s Servers) Serve(ctx context.Context, group *errgroup.Group) {
	for _, e := range s {
		server := &http.Server{Handler: e.handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
		group.Go(func() error {
			if err := server.Serve(e.listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s on %s: %w", e.what, e.listener.Addr(), err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
			defer cancel()
			if err := server.Shutdown(bounded); !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			return server.Close()
		})
	}
}
