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

// Listen opens the agent's listener at AgentIP:AgentPort, or at any free port if an older agent
// still has that one. The rules that Ensure and Run write lead to the actual port. It needs no
// privilege, and the address need not exist yet, so that an agent that may not change the network
// can still report that.
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
	// No keep-alive probes, which cost four system calls for each connection: the server's own limits
	// detect a lost peer sooner.
	config := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		var optionErr error
		err := raw.Control(func(fd uintptr) {
			// The listener works whether the address exists already, or is deleted and added again.
			optionErr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		})
		return errors.Join(err, optionErr)
	}}
	return config.Listen(ctx, "tcp4", at.String())
}
