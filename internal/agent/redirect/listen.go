// The listener behind the redirect.

package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen opens the agent's listener at AgentIP:AgentPort. When an older agent still has the port, it takes
// any other; the rules that Ensure and Run write lead to where it really listens. It needs neither a
// privilege nor the address to be there: an agent that may not change the network can still say so.
//
// RemoteAddr of its connections is the pod's own address. Call it before Run.
func (r *Redirect) Listen(ctx context.Context) (net.Listener, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	listener, err := listen(ctx, netip.AddrPortFrom(r.config.AgentIP, r.config.AgentPort))
	if errors.Is(err, unix.EADDRINUSE) {
		listener, err = listen(ctx, netip.AddrPortFrom(r.config.AgentIP, 0))
	}
	if err != nil {
		return nil, fmt.Errorf("listen for diverted requests: %w", err)
	}
	at, err := netip.ParseAddrPort(listener.Addr().String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for diverted requests: %w", err), listener.Close())
	}
	r.port = at.Port()
	return listener, nil
}

func listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	// No keep-alive probes, four system calls for every connection: a peer that vanished is noticed by the
	// server's own limits, sooner than by them.
	config := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			// The address may come later, or go and come back, without the listener noticing.
			failed = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		})
		return errors.Join(err, failed)
	}}
	return config.Listen(ctx, "tcp4", at.String())
}
