// Who may use the Unix socket for processes of the host.

package server

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

// rootOnly is a listener on a Unix socket that accepts connections of root alone.
type rootOnly struct {
	net.Listener
	log logr.Logger
}

// RootOnly returns a listener that closes connections of l whose other end is not root, as the
// kernel says.
func RootOnly(l net.Listener, log logr.Logger) net.Listener { return rootOnly{l, log} }

// Accept returns the next connection of root.
func (l rootOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		user, err := peerUser(c)
		if err == nil && user == 0 {
			return c, nil
		}
		l.log.V(1).Info("refused a connection: only root may use the socket for processes of the host", "user", user, "error", err)
		_ = c.Close() // nothing was said, so nothing is lost
	}
}

// peerUser returns the user at the other end of a Unix socket when it connected.
func peerUser(c net.Conn) (uint32, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0, errors.New("read the peer's user: not a socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("read the peer's user: %w", err)
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("read the peer's user: %w", err)
	}
	return peer.Uid, nil
}
