// What needs privileges on the node: done by this process, or by a holder.

package main

import (
	"context"
	"net"
	"net/netip"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/hook/wireprobe"
	"github.com/podid-io/podid/internal/privileged"
)

// privileges does what needs privileges. *privileged.Local describes the methods.
type privileges interface {
	CountTo(redirect.Counts)
	Listen(ctx context.Context) (net.Listener, error)
	Owner(ctx context.Context) (secret string, at netip.AddrPort, found bool, err error)
	TakeBack(ctx context.Context) error
	KeepRedirect(ctx context.Context, checked func(error))
	Sockets() (path string, remove func(), err error)
	Capture(ctx context.Context, sockets string, passAbsent bool, checked func(error)) error
	Retire(ctx context.Context) error
	Release(ctx context.Context) error
	EndCapture(ctx context.Context) (found bool, err error)
	Probe(context.Context, wireprobe.Question) privileged.Probed
}

// newPrivileges returns who does what needs privileges. secret is for a newer agent.
func newPrivileges(o *options, secret string, log logr.Logger) (privileges, error) {
	if o.holder != "" {
		return privileged.NewRemote(o.privileged, o.ports.nmi, secret, o.holder)
	}
	return privileged.NewLocal(o.privileged, o.ports.nmi, secret, log)
}
