// The Unix socket for processes of the host is for root alone.

package connections

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

// rootOnly is a listener on a Unix socket that accepts only connections of root.
type rootOnly struct {
	net.Listener
	log logr.Logger
}

// RootOnly returns a listener that closes the connections of l whose peer is not root.
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
		l.log.V(1).Info("rejected connection to the socket for processes of the host: the peer is not root", "user", user, "error", err)
		_ = c.Close() // nothing was sent or received yet
	}
}

// peerUser returns the user ID of a Unix socket's peer when it connected.
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
	var credErr error
	err = raw.Control(func(fd uintptr) {
		peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("read the peer's user: %w", err)
	}
	return peer.Uid, nil
}
