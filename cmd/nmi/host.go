// Where processes of the host ask.

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

	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/handover"
)

// portOptions: where nmi listens for the host, besides what every daemon serves.
type portOptions struct {
	listenAddress string
	nmi           int
	hostTokenTCP  bool
	hostSocket    string // empty: none
}

func (o *portOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.listenAddress, "nmi-listen-address", "127.0.0.1", "`address` for processes of the host (/host/token)")
	flags.IntVar(&o.nmi, "nmi-port", 2579, "`port` at --nmi-listen-address and at --agent-address")
	flags.BoolVar(&o.hostTokenTCP, "host-token-tcp", true, "serve /host/token at --nmi-listen-address; false where tenants share the cluster: "+
		"a pod can have the kubelet ask there for any pod of the node")
	flags.StringVar(&o.hostSocket, "host-token-socket", "", "`path` of a Unix socket where /host/token is served to root alone, such as /run/podid/host.sock")
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

// hostAddress is the TCP address where processes of the host ask.
func (o *portOptions) hostAddress() string {
	return net.JoinHostPort(o.listenAddress, strconv.Itoa(o.nmi))
}

// later are the listeners on which an older agent goes on until this one serves pods.
func (o *portOptions) later() []string {
	if o.hostSocket == "" {
		return []string{o.hostAddress()}
	}
	return []string{o.hostAddress(), o.hostSocket}
}

// hostEndpoint is one listener for processes of the host.
type hostEndpoint struct {
	network, address string
	handler          http.HandlerFunc
	only             func(net.Listener) net.Listener // who is let in
}

func (a *agent) hostEndpoints() []hostEndpoint {
	endpoints := []hostEndpoint{{"tcp", a.o.ports.hostAddress(), a.server.ServeHost, func(l net.Listener) net.Listener { return l }}}
	if path := a.o.ports.hostSocket; path != "" {
		rootOnly := func(l net.Listener) net.Listener { return connections.RootOnly(l, a.log.WithName("server")) }
		endpoints = append(endpoints, hostEndpoint{"unix", path, a.server.ServeHostSocket, rootOnly})
	}
	return endpoints
}

// serveHost serves one of the host's listeners. Its port may be taken by an older agent
// that is about to leave, so it is tried again, for as long as it takes: pods do
// not need it.
func (a *agent) serveHost(ctx context.Context, e hostEndpoint) error {
	select {
	case <-a.life.turn:
	case <-ctx.Done():
	}
	said := false
	for ctx.Err() == nil {
		l, err := a.life.line.Listen(ctx, e.network, e.address)
		if err == nil {
			a.log.Info("serving the host", "address", e.address)
			return connections.Serve(ctx, counted{e.only(l), &a.life.crowd}, a.life.answers(e.handler), connections.Limits{Total: 256, PerAddress: 256}, a.log)
		}
		if !said && ctx.Err() == nil {
			a.log.Error(err, "cannot listen for processes of the host, trying again", "address", e.address)
			said = true
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
		}
	}
	return nil
}
