// The sockets in one namespace, and the connections that arrive there.

package inpod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/agent/podgroups"
	"github.com/podid-io/podid/internal/agent/sockdiag"
	"github.com/podid-io/podid/internal/hook/netns"
	"github.com/podid-io/podid/internal/hook/protocol"
)

// Conn is a connection from a pod.
type Conn struct {
	net.Conn
	// Pod is the UID of the pod whose control group has the caller's socket. It is empty if the group
	// is no pod's, or the kernel knows no such socket: the caller is not in the pod's namespace, or
	// has gone.
	Pod string
	// Namespace is the name of the network namespace.
	Namespace string

	once    sync.Once
	release func()
}

// NetConn returns the connection that was accepted.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	socket, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a %T has no socket", c.Conn)
	}
	return socket.SyscallConn() //nolint:wrapcheck // this is only in between
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	defer c.once.Do(c.release)
	return c.Conn.Close()
}

// diag is a *sockdiag.Diag.
type diag interface {
	Group(from, to netip.AddrPort) (uint64, error)
	Close() error
}

// entrance is the sockets in one namespace.
type entrance struct {
	name     string
	cookie   uint64 // of the namespace
	socket   uint64 // cookie of the listening socket
	named    int    // the last connection to the holder that passed it
	listener net.Listener
	diag     diag
	slots    chan struct{} // one for each open connection
	done     chan struct{} // closed when the entrance ends
	accepts  chan struct{} // closed when accept has ended
}

// newEntrance returns an entrance that uses the sockets of a message. The files are closed.
func newEntrance(m protocol.Message, listening, diagnosing *os.File, slots int) (*entrance, error) {
	defer func() { _ = listening.Close() }()
	asks, err := newDiag(m, listening, diagnosing)
	if err != nil {
		_ = diagnosing.Close()
		return nil, err
	}
	listener, err := net.FileListener(listening)
	if err != nil {
		_ = asks.Close()
		return nil, fmt.Errorf("use listener: %w", err)
	}
	socket, err := socketCookie(listener)
	if err != nil {
		_, _ = asks.Close(), listener.Close()
		return nil, err
	}
	return &entrance{
		name: m.Namespace, cookie: m.Cookie, socket: socket, listener: listener, diag: asks,
		slots: make(chan struct{}, slots), done: make(chan struct{}), accepts: make(chan struct{}),
	}, nil
}

// errMixed means that a caller could be taken for one of another namespace with the same addresses.
var errMixed = errors.New("the listener and the sock_diag socket are not in the same network namespace")

func newDiag(m protocol.Message, listening, diagnosing *os.File) (*sockdiag.Diag, error) {
	for _, socket := range []*os.File{listening, diagnosing} {
		cookie, err := netns.CookieOf(socket)
		if err != nil {
			return nil, err
		}
		if cookie != m.Cookie {
			return nil, fmt.Errorf("%w: %d, want %d", errMixed, cookie, m.Cookie)
		}
	}
	asks, err := sockdiag.New(diagnosing)
	if err != nil {
		return nil, fmt.Errorf("use sock_diag: %w", err)
	}
	return asks, nil
}

// socketCookie returns what identifies a socket, whichever descriptor it is reached by.
func socketCookie(l net.Listener) (cookie uint64, err error) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return 0, fmt.Errorf("the listener is for %s, not TCP", l.Addr().Network())
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("identify listener: %w", err)
	}
	controlErr := raw.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
	})
	if err = errors.Join(controlErr, err); err != nil {
		return 0, fmt.Errorf("identify listener: %w", err)
	}
	return cookie, nil
}

// end closes the sockets and waits until they are not in use.
func (e *entrance) end() {
	close(e.done)
	_ = e.listener.Close()
	<-e.accepts
	_ = e.diag.Close()
}

// The pauses after errors of accept. Most are temporary, such as too many open files.
const (
	firstAcceptPause = 5 * time.Millisecond
	maxAcceptPause   = time.Second
)

// accept accepts the connections in one namespace until the entrance ends.
func (l *Listener) accept(e *entrance) {
	defer close(e.accepts)
	pause := firstAcceptPause
	for {
		select {
		case e.slots <- struct{}{}: // before the kernel gives the connection a descriptor
		case <-e.done:
			return
		}
		c, err := e.listener.Accept()
		switch {
		case err == nil:
			pause = firstAcceptPause
			if !l.deliver(e, c) {
				return
			}
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		<-e.slots
		if pause == firstAcceptPause {
			l.log.Error(err, "cannot accept a pod's connections, retrying", "namespace", e.name)
		}
		select {
		case <-time.After(pause):
		case <-e.done:
			return
		}
		pause = min(2*pause, maxAcceptPause)
	}
}

// deliver passes a connection to Accept. It returns false if the entrance or the listener has
// ended, and then closes the connection.
func (l *Listener) deliver(e *entrance, c net.Conn) bool {
	conn := &Conn{Conn: c, Namespace: e.name, release: func() { <-e.slots }}
	var err error
	if conn.Pod, err = l.podOf(e, c); err != nil {
		l.log.V(1).Info("closed a connection whose caller is not known", "namespace", e.name, "reason", err.Error())
		_ = conn.Close()
		return true
	}
	select {
	case l.accepted <- conn:
		return true
	case <-l.closed:
	case <-e.done:
	}
	_ = conn.Close()
	return false
}

// lookupTime bounds the wait for the pod of a control group.
const lookupTime = 2 * time.Second

// podOf returns the UID of the caller's pod, or nothing if the caller certainly is in none. It
// fails if that is not known: the client connects again.
func (l *Listener) podOf(e *entrance, c net.Conn) (uid string, err error) {
	group, err := e.diag.Group(address(c.RemoteAddr()), address(c.LocalAddr()))
	if errors.Is(err, sockdiag.ErrNoSocket) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	uid, err = l.pods.Lookup(ctx, group)
	if errors.Is(err, podgroups.ErrNoPod) {
		return "", nil
	}
	return uid, err
}

func address(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}
