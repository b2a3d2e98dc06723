// Package privileged does for the agent what needs privileges on the node: it keeps the redirect in
// place and probes it (internal/agent/redirect, internal/hook/wireprobe), and captures requests
// inside pods (internal/hook).
//
// Local does it in the agent's own process, which is root then. Remote asks a holder, another
// process beside the agent, and the agent needs no privilege. Server is the holder's end.
//
//	options.go  the flags that both processes take
//	calls.go    what goes over the connection
//	server.go   the holder's end
//	capture.go  the capture that it runs
//	remote.go   the agent's end
//	probe.go    the probe on the node's network
package privileged

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/hook"
	"github.com/podid-io/podid/internal/hook/program"
	"github.com/podid-io/podid/internal/kubepods"
)

// Local does what needs privileges in this process.
type Local struct {
	options  Options
	redirect *redirect.Redirect
	users    []uint32 // whose agents may take sockets, besides root's
	log      logr.Logger
	retire   chan chan<- error

	capturing atomic.Bool
	probing   sync.Mutex // held while a probe is under way
}

// NewLocal returns a Local that leads pods to an agent at a port. secret is for a newer agent
// (redirect.Config.HandoverSecret). It changes nothing on the node yet.
func NewLocal(o Options, port int, secret string, log logr.Logger) (*Local, error) {
	r, err := newRedirect(o, port, secret)
	if err != nil {
		return nil, err
	}
	return &Local{options: o, redirect: r, log: log, retire: make(chan chan<- error)}, nil
}

func newRedirect(o Options, port int, secret string) (*redirect.Redirect, error) {
	config, err := o.Redirect(port)
	if err != nil {
		return nil, err
	}
	config.HandoverSecret = secret
	return redirect.New(config)
}

// CountTo sets the counts of writes of the redirect. Call it before KeepRedirect.
func (l *Local) CountTo(c redirect.Counts) { l.redirect.CountTo(c) }

// Listen opens the listener to which the redirect leads.
func (l *Local) Listen(ctx context.Context) (net.Listener, error) { return l.redirect.Listen(ctx) }

// Owner returns the other agent that has the redirect, as redirect.Owner does.
func (l *Local) Owner(ctx context.Context) (secret string, at netip.AddrPort, found bool, err error) {
	return l.redirect.Owner(ctx)
}

// TakeBack puts this agent's redirect in place again after a newer agent had it.
func (l *Local) TakeBack(ctx context.Context) error {
	return errors.Join(l.redirect.Renew(), l.redirect.Ensure(ctx))
}

// KeepRedirect keeps the redirect in place until ctx ends. It reports each check.
func (l *Local) KeepRedirect(ctx context.Context, checked func(error)) {
	l.redirect.Run(logr.NewContext(ctx, l.log), l.options.Interval(), checked)
}

// Sockets returns the path at which Capture passes sockets to the agent. The caller must call
// remove when it needs it no more.
func (l *Local) Sockets() (path string, remove func(), err error) {
	folder := filepath.Dir(l.options.lock)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", nil, fmt.Errorf("make folder for the lock of holders: %w", err)
	}
	private, err := os.MkdirTemp(folder, "agent-")
	if err != nil {
		return "", nil, fmt.Errorf("make folder for the holder's socket: %w", err)
	}
	return filepath.Join(private, socketsName), func() { _ = os.RemoveAll(private) }, nil
}

// Capture captures requests inside pods until ctx ends, or it cannot go on. It passes the sockets
// to agents that connect to the path. Pods whose sockets no agent has reach the redirect if
// passAbsent is set, and nothing otherwise. With --capture=require that is so only until an agent
// has the sockets of all pods for the first time. It reports each check.
func (l *Local) Capture(ctx context.Context, sockets string, passAbsent bool, checked func(error)) error {
	o := l.options
	folder, err := kubepods.Find(os.DirFS(o.groups))
	if err != nil {
		return err
	}
	l.capturing.Store(true)
	defer l.capturing.Store(false)
	return hook.Serve(ctx, hook.Settings{
		Metadata: o.metadata(), Closed: o.Closed(), Listen: netip.MustParseAddrPort(o.address),
		PassAbsent: passAbsent && o.Way == CapturePrefer, PassUntilReady: passAbsent,
		HostPods: o.HostPods != HostPodsOff,
		Group:    filepath.Join(o.groups, folder), Namespaces: o.namespaces, Pins: o.pins, Lock: o.lock,
		Socket: sockets, Users: l.users, Checked: checked, Retire: l.retire,
	}, l.log)
}

// Retire removes what captures inside pods if the agent that has taken over does not capture. The
// connections of pods stay.
func (l *Local) Retire(ctx context.Context) error {
	if !l.capturing.Load() {
		return l.Release(ctx)
	}
	done := make(chan error, 1)
	select {
	case l.retire <- done:
	case <-ctx.Done():
		return fmt.Errorf("end the capture inside pods: %w", ctx.Err())
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("end the capture inside pods: %w", ctx.Err())
	}
}

// Release lets pods reach the redirect, unless another agent captures inside them.
func (l *Local) Release(context.Context) error { return hook.Release(l.options.lock, l.options.pins) }

// EndCapture removes what an agent that captured inside pods has left. found is false if there is
// nothing.
func (l *Local) EndCapture(context.Context) (found bool, err error) {
	switch _, err := os.Stat(l.options.pins); {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for what captures inside pods: %w", err)
	}
	return true, program.Remove(l.options.pins)
}

// GuardBoot refuses pods inside them until a holder serves, on a node that has just booted. It
// reports false if what a holder has put in place refuses or serves them already, or if it can put
// no programs in place. With true, an error is about interfaces without a guard.
func GuardBoot(ctx context.Context, o Options) (guarded bool, err error) {
	top, err := kubepods.Top(os.DirFS(o.groups))
	if err != nil {
		return false, err
	}
	guarded, err = hook.GuardBoot(ctx, hook.Settings{
		Metadata: o.metadata(), Closed: o.Closed(), Group: filepath.Join(o.groups, top), Pins: o.pins,
	})
	if err != nil {
		return guarded, fmt.Errorf("refuse pods inside them before the agent runs: %w", err)
	}
	return guarded, nil
}
