// Probes, metrics and profiles over HTTP.

package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/podid-io/podid/internal/httpserve"
	"github.com/podid-io/podid/internal/observe"
)

// profileAddress is the address that v1.8.17 used.
const profileAddress = "localhost:6060"

// The limits of these servers, for an agent of 256 MiB: the kubelet and a few scrapers need one
// connection each, and all connections together use less than 10 MB.
const (
	headerTime = 5 * time.Second
	bodyTime   = 5 * time.Second
	idleTime   = time.Minute
	// answerTime is Prometheus's own limit of a scrape.
	answerTime = 10 * time.Second
	// profileTime is long enough for a profile of a minute.
	profileTime = 90 * time.Second
	// shutdownTimeout is how long requests in progress may take when the program ends.
	shutdownTimeout = 3 * time.Second
)

// limits returns the limits of connections.
func limits(total int) httpserve.Limits {
	return httpserve.Limits{Total: total, PerSource: 8, ReadBuffer: 8 << 10, WriteBuffer: 32 << 10}
}

type endpoint struct {
	what, flags, address string
	handler              http.Handler
	connections          int
	answerTime           time.Duration
	listener             net.Listener
}

// Servers are open ports.
type Servers []endpoint

// Opener opens ports; a net.ListenConfig does.
type Opener interface {
	Listen(ctx context.Context, network, address string) (net.Listener, error)
}

func (o *Options) probeAddress() string   { return net.JoinHostPort(o.ProbeAddress, o.ProbePort) }
func (o *Options) metricsAddress() string { return net.JoinHostPort(o.MetricsAddress, o.MetricsPort) }

// Addresses returns the addresses that Listen opens.
func (o *Options) Addresses() []string {
	all := []string{o.probeAddress(), o.metricsAddress()}
	if o.Profile {
		all = append(all, profileAddress)
	}
	return all
}

// Listen opens all ports, or none, and logs their addresses.
func (o *Options) Listen(ctx context.Context, health *observe.Health, metrics prometheus.Gatherer) (Servers, error) {
	return o.ListenWith(ctx, &net.ListenConfig{}, health, metrics)
}

// ListenWith is Listen with an Opener of the caller.
func (o *Options) ListenWith(ctx context.Context, opener Opener, health *observe.Health, metrics prometheus.Gatherer) (Servers, error) {
	scraped := http.NewServeMux()
	scraped.Handle("/metrics", newScrapes(metrics))
	wanted := Servers{
		{what: "probes", flags: "--http-probe-address, --http-probe-port", address: o.probeAddress(), handler: health.Handler(), connections: 64, answerTime: answerTime},
		{what: "metrics", flags: "--prometheus-address, --prometheus-port", address: o.metricsAddress(), handler: scraped, connections: 64, answerTime: answerTime},
	}
	if o.Profile {
		wanted = append(wanted, endpoint{what: "profiles", flags: "--enableProfile", address: profileAddress, handler: profiles(), connections: 8, answerTime: profileTime})
	}
	for i := range wanted {
		s := &wanted[i]
		listener, err := opener.Listen(ctx, "tcp", s.address)
		if err != nil {
			for _, open := range wanted[:i] {
				_ = open.listener.Close() // it has not served anything yet
			}
			return nil, fmt.Errorf("serve %s (%s): %w: is another program using the port?", s.what, s.flags, err)
		}
		logr.FromContextOrDiscard(ctx).Info("serving "+s.what, "address", listener.Addr().String())
		s.listener = listener
	}
	return wanted, nil
}

// profiles serves the handlers of net/http/pprof on a separate mux.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// Serve serves within the group until the context ends.
func (s Servers) Serve(ctx context.Context, group *errgroup.Group) {
	for _, e := range s {
		server := &httpserve.Server{
			Handler: e.handler, Limits: limits(e.connections),
			HeaderTime: headerTime, BodyTime: bodyTime, IdleTime: idleTime, AnswerTime: e.answerTime, Grace: shutdownTimeout,
			Log: logr.FromContextOrDiscard(ctx),
		}
		group.Go(func() error {
			if err := server.Serve(ctx, e.listener); err != nil {
				return fmt.Errorf("serve %s on %s: %w", e.what, e.listener.Addr(), err)
			}
			return nil
		})
	}
}
