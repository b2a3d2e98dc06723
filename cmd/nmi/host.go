// The endpoints for processes of the host.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/handover"
)

// portOptions are where nmi listens, besides the ports for probes and metrics.
type portOptions struct {
	listenAddress string
	nmi           int
	hostTokenTCP  bool
	hostSocket    string // empty: none
}

func (o *portOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.listenAddress, "nmi-listen-address", "127.0.0.1", "`address` for processes of the host (/host/token)")
	flags.IntVar(&o.nmi, "nmi-port", 2579, "`port` at --nmi-listen-address and at --agent-address")
	flags.BoolVar(&o.hostTokenTCP, "host-token-tcp", true, "serve /host/token at --nmi-listen-address; set it to false if tenants share the cluster: "+
		"a pod can make the kubelet request tokens there for any pod of the node")
	flags.StringVar(&o.hostSocket, "host-token-socket", "", "`path` of a Unix socket that serves /host/token to root alone, such as /run/podid/host.sock")
}

func (o *portOptions) validate() error {
	var err error
	if _, parse := netip.ParseAddr(o.listenAddress); parse != nil {
		err = fmt.Errorf("--nmi-listen-address=%q is not an IP address", o.listenAddress)
	}
	return errors.Join(err, port("nmi-port", o.nmi), o.checkSocket())
}

func (o *portOptions) checkSocket() error {
	switch {
	case o.hostSocket == "":
		return nil
	case !filepath.IsAbs(o.hostSocket) || filepath.Clean(o.hostSocket) != o.hostSocket:
		return fmt.Errorf("--host-token-socket=%q: use an absolute path without . and .., such as /run/podid/host.sock", o.hostSocket)
	case len(o.hostSocket) > handover.MaxUnixPath:
		return fmt.Errorf("--host-token-socket: the path has %d bytes: use one of at most %d", len(o.hostSocket), handover.MaxUnixPath)
	}
	return nil
}

// hostAddress returns the TCP address for processes of the host.
func (o *portOptions) hostAddress() string {
	return net.JoinHostPort(o.listenAddress, strconv.Itoa(o.nmi))
}

// later returns the listeners that an older agent serves until this one serves pods.
func (o *portOptions) later() []string {
	if o.hostSocket == "" {
		return []string{o.hostAddress()}
	}
	return []string{o.hostAddress(), o.hostSocket}
}

// hostEndpoint is an endpoint for processes of the host.
type hostEndpoint struct {
	network, address string
	handler          http.HandlerFunc
	restrict         func(net.Listener) net.Listener
}

func (a *agent) hostEndpoints() []hostEndpoint {
	endpoints := []hostEndpoint{{"tcp", a.o.ports.hostAddress(), a.server.ServeHost, func(l net.Listener) net.Listener { return l }}}
	if path := a.o.ports.hostSocket; path != "" {
		rootOnly := func(l net.Listener) net.Listener { return connections.RootOnly(l, a.log.WithName("server")) }
		endpoints = append(endpoints, hostEndpoint{"unix", path, a.server.ServeHostSocket, rootOnly})
	}
	return endpoints
}

// retryInterval is the pause between attempts to open a port for the host.
const retryInterval = 2 * time.Second

// serveHost serves an endpoint for processes of the host. A stopping agent may still have its port,
// so it retries until ctx ends: pods do not need the port.
func (a *agent) serveHost(ctx context.Context, e hostEndpoint) error {
	select {
	case <-a.lifecycle.Turn():
	case <-ctx.Done():
	}
	logged := false
	for ctx.Err() == nil {
		l, err := a.lifecycle.Session.Listen(ctx, e.network, e.address)
		if err == nil {
			a.log.Info("serving the host", "address", e.address)
			return connections.Serve(ctx, a.lifecycle.Count(e.restrict(l)), attest.NewOrigins(), a.lifecycle.Handler(e.handler),
				connections.Limits{Total: 256, PerSource: 256}, a.log)
		}
		if !logged && ctx.Err() == nil {
			a.log.Error(err, "cannot listen for processes of the host, retrying", "address", e.address)
			logged = true
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
		}
	}
	return nil
}
