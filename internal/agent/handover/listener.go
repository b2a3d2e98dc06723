// Listeners that can rest while another process accepts on the same socket.

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

// listener accepts connections unless it rests.
type listener struct {
	socket

	mu     sync.Mutex
	awake  chan struct{} // closed while it accepts
	closed chan struct{}
	once   sync.Once

	accepting sync.Mutex // held while a connection is accepted
}

func newListener(l socket) *listener {
	awake := make(chan struct{})
	close(awake)
	return &listener{socket: l, awake: awake, closed: make(chan struct{})}
}

// Accept returns the next connection. While the listener rests, it waits.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		awake := l.awake
		l.mu.Unlock()
		select {
		case <-awake:
		case <-l.closed:
			return nil, net.ErrClosed
		}
		c, err := l.acceptOne()
		if !errors.Is(err, os.ErrDeadlineExceeded) { // it was sent to rest
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

// rest stops accepting: when it returns, no further connection is accepted here. The socket stays open, and what
// arrives waits in it for the other process.
func (l *listener) rest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.awake:
		l.awake = make(chan struct{})
		_ = l.SetDeadline(time.Unix(1, 0)) // only a closed listener has none, and rests anyway
		// An Accept that has just been woken by a connection would take it all the same.
		l.accepting.Lock()
		defer l.accepting.Unlock()
	default:
	}
}

// wake goes on accepting.
func (l *listener) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.awake:
	default:
		_ = l.SetDeadline(time.Time{}) // as above
		close(l.awake)
	}
}

// Listen is net.ListenConfig's, but takes the socket over from an older agent where that has given it. What it returns
// can be handed over in turn. Of network "unix" the address is a path; see listenUnix.
func (l *Line) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	l.mu.Lock()
	open, inherited := l.inherited[address]
	delete(l.inherited, address)
	l.mu.Unlock()
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
	l.mu.Lock()
	l.listeners[address] = out
	l.mu.Unlock()
	return out, nil
}

func listen(ctx context.Context, network, address string) (net.Listener, error) {
	if network == "unix" {
		return listenUnix(ctx, address)
	}
	return new(net.ListenConfig).Listen(ctx, network, address)
}

// MaxUnixPath is the longest path of a Unix socket that Listen takes: the kernel has room for 107
// bytes, and the socket has a longer name at first.
const MaxUnixPath = 96

// listenUnix opens a Unix socket that only its user can connect to. It replaces the one that an
// ended agent left, but no other kind of file. The file stays when the listener is closed: a newer
// agent may listen there.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("listen on %s: the file is not a socket: remove it, or choose another path", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of the socket: %w", err)
	}
	// Under a name of its own until its mode is right, and then in the place of the old one at once.
	first := path + "." + rand.Text()[:8]
	open, err := new(net.ListenConfig).Listen(ctx, "unix", first)
	if err != nil {
		return nil, err
	}
	if unixListener, ok := open.(*net.UnixListener); ok {
		unixListener.SetUnlinkOnClose(false)
	}
	if err := errors.Join(os.Chmod(first, 0o600), os.Rename(first, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), os.Remove(first), open.Close())
	}
	return open, nil
}

// find returns the listeners that are wanted and that there are.
func (l *Line) find(asked []wanted) (found []wanted, open []*listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range asked {
		if o := l.listeners[w.Address]; o != nil && len(found) < maxListeners {
			found, open = append(found, w), append(open, o)
		}
	}
	return found, open
}
