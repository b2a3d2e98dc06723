// The two ends of the connection, and who may be at the other.

package protocol

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Listener is the holder's end.
type Listener struct {
	unix  *net.UnixListener
	users []uint32
}

// Listen waits for agents at a path, which may only be reached by its folder's users. Processes of
// other users than these and root are turned away.
func Listen(ctx context.Context, path string, users ...uint32) (*Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove earlier socket: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("listen for agents: %w", err)
	}
	// The socket at the path may be a newer holder's by the time that this one ends.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o666); err != nil { // the users of connections are checked
		_ = l.Close()
		return nil, fmt.Errorf("let agents connect: %w", err)
	}
	return &Listener{unix: l.(*net.UnixListener), users: append(users, 0)}, nil
}

// Close stops listening.
func (l *Listener) Close() error { return l.unix.Close() }

// ErrPeer means that the process at the other end may not be there. The connection is closed.
var ErrPeer = errors.New("the process at the other end is not the expected user's")

// Accept waits for an agent.
func (l *Listener) Accept() (*Conn, error) {
	c, err := l.unix.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("accept agent: %w", err)
	}
	return checked(c, l.users)
}

// Dial connects an agent to the holder at a path, which must be root's.
func Dial(ctx context.Context, path string) (*Conn, error) { return dial(ctx, path, 0) }

func dial(ctx context.Context, path string, users ...uint32) (*Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("connect to holder: %w", err)
	}
	return checked(c.(*net.UnixConn), users)
}

// checked returns the connection if the other end's user is one of these.
func checked(c *net.UnixConn, users []uint32) (*Conn, error) {
	peer, err := userOf(c)
	if err == nil && !slices.Contains(users, peer) {
		err = fmt.Errorf("%w: user %d, want one of %d", ErrPeer, peer, users)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return &Conn{c}, nil
}

// userOf returns the user of the process at the other end (SO_PEERCRED).
func userOf(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("look who is at the other end: %w", err)
	}
	var peer *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(controlErr, err); err != nil {
		return 0, fmt.Errorf("look who is at the other end: %w", err)
	}
	return peer.Uid, nil
}
