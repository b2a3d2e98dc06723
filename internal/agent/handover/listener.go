// Listeners that can be paused while another process accepts on the same socket.

package handover

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// socket is a listening socket, over TCP or Unix, whose descriptor can be sent.
type socket interface {
	net.Listener
	syscall.Conn
	SetDeadline(t time.Time) error
}

// listener accepts connections unless it is paused.
type listener struct {
	socket

	mu     sync.Mutex
	active chan struct{} // closed while it accepts
	closed chan struct{}
	once   sync.Once

	accepting sync.Mutex // held while a connection is accepted
}

func newListener(l socket) *listener {
	active := make(chan struct{})
	close(active)
	return &listener{socket: l, active: active, closed: make(chan struct{})}
}

// Accept returns the next connection. While the listener is paused, it waits.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		active := l.active
		l.mu.Unlock()
		select {
		case <-active:
		case <-l.closed:
			return nil, net.ErrClosed
		}
		c, err := l.acceptOne()
		if !errors.Is(err, os.ErrDeadlineExceeded) { // it was paused
			return c, err
		}
	}
}

func (l *listener) acceptOne() (net.Conn, error) {
	l.accepting.Lock()
	defer l.accepting.Unlock()
	return l.socket.Accept()
}

// Close closes this process's copy of the socket.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.socket.Close()
}

// pause stops accepting: after it has returned, no further connection is accepted here. The socket
// stays open, and new connections wait in it for the other process.
func (l *listener) pause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.active:
		l.active = make(chan struct{})
		_ = l.SetDeadline(time.Unix(1, 0)) // fails only if the listener is closed
		// An Accept that a connection has just woken would still return it.
		l.accepting.Lock()
		defer l.accepting.Unlock()
	default:
	}
}

// resume accepts again.
func (l *listener) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.active:
	default:
		_ = l.SetDeadline(time.Time{}) // as above
		close(l.active)
	}
}

// Listen returns a listener at the address, which can be handed over. If an older agent has handed
// over its socket there, that one is used. In the network "unix" the address is a path, at most
// MaxUnixPath long, and only this user can connect.
func (s *Session) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	s.mu.Lock()
	open, inherited := s.inherited[address]
	delete(s.inherited, address)
	s.mu.Unlock()
	if !inherited {
		var err error
		if open, err = listen(ctx, network, address); err != nil {
			return nil, err
		}
	}
	sendable, ok := open.(socket)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen on %s: a listener on %s cannot be handed over", address, network), open.Close())
	}
	out := newListener(sendable)
	s.mu.Lock()
	s.listeners[address] = out
	s.mu.Unlock()
	return out, nil
}

func listen(ctx context.Context, network, address string) (net.Listener, error) {
	if network == "unix" {
		return listenUnix(ctx, address)
	}
	return new(net.ListenConfig).Listen(ctx, network, address)
}

// MaxUnixPath is the length of the longest path of a Unix socket in bytes. The kernel's limit is
// 107, and the socket has a longer name at first.
const MaxUnixPath = 96

// listenUnix opens a Unix socket that only its user can connect to. It replaces the socket of an
// agent that has exited, but no other kind of file. The file stays when the listener is closed: a
// newer agent may listen there.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("listen on %s: the file is not a socket: remove it, or choose another path", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create the folder of the socket: %w", err)
	}
	// The socket has a temporary name until its mode is set, then it replaces the old one atomically.
	temporary := path + "." + rand.Text()[:8]
	open, err := new(net.ListenConfig).Listen(ctx, "unix", temporary)
	if err != nil {
		return nil, err
	}
	if unixListener, ok := open.(*net.UnixListener); ok {
		unixListener.SetUnlinkOnClose(false)
	}
	if err := errors.Join(os.Chmod(temporary, 0o600), os.Rename(temporary, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), os.Remove(temporary), open.Close())
	}
	return open, nil
}

// find returns the requested listeners that are open, maxListeners at most.
func (s *Session) find(requested []listenerSpec) (found []listenerSpec, open []*listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range requested {
		if l := s.listeners[r.Address]; l != nil && len(found) < maxListeners {
			found, open = append(found, r), append(open, l)
		}
	}
	return found, open
}
