// Package inpod accepts pods' connections in the pods' own network namespaces, on sockets that the
// holder (internal/hook) opened there, and learns the control group of each caller from the kernel.
package inpod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/sockdiag"
	"github.com/podid-io/podid/internal/hook/protocol"
)

// Conn is a connection from a pod.
type Conn struct {
	net.Conn
	// Group is the ID of the caller's control group, or 0 if the kernel knows no such socket: the
	// caller is not in the pod's namespace, or has gone.
	Group uint64
}

// Listener accepts connections in all pods' namespaces. It is a net.Listener whose connections are
// *Conn.
type Listener struct {
	path string
	log  logr.Logger

	accepted chan *Conn
	closed   chan struct{}
	close    sync.Once
	complete chan struct{}
	once     sync.Once

	mu       sync.Mutex
	entrance map[uint64]*entrance // by the namespace's cookie
}

// entrance is the sockets in one namespace.
type entrance struct {
	name     string
	listener net.Listener
	diag     *sockdiag.Diag
	accepts  chan struct{} // closed when accept has ended
}

// New returns a listener for a holder that listens at a path. It has no sockets before Run.
func New(path string, log logr.Logger) *Listener {
	return &Listener{
		path: path, log: log.WithName("inpod"), accepted: make(chan *Conn), closed: make(chan struct{}),
		complete: make(chan struct{}), entrance: map[uint64]*entrance{},
	}
}

// Complete is closed once the holder has passed all sockets for the first time.
func (l *Listener) Complete() <-chan struct{} { return l.complete }

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The sockets are closed when Run ends.
func (l *Listener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unixpacket"} }

// The pauses between attempts to connect to the holder. While it is away, pods are served on the
// sockets that it passed before.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
)

// Run receives sockets until ctx ends, and connects again when the holder is replaced.
func (l *Listener) Run(ctx context.Context) error {
	defer l.end()
	for pause := firstPause; ; {
		err := l.receive(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errLost) {
			pause = firstPause
		}
		l.log.Info("no connection to the holder, retrying; pods that have started are served", "reason", err.Error())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

var errLost = errors.New("the holder has ended")

// receive connects to the holder and handles its messages until it ends.
func (l *Listener) receive(ctx context.Context) error {
	conn, err := protocol.Dial(ctx, l.path)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	earlier := l.cookies()
	for {
		m, files, err := conn.Receive()
		if err != nil {
			return fmt.Errorf("%w: %w", errLost, err)
		}
		switch m.Kind {
		case protocol.Appeared:
			delete(earlier, m.Cookie)
			if err := l.add(m, files[0], files[1]); err != nil {
				l.log.Error(err, "cannot serve a pod", "namespace", m.Namespace)
			}
		case protocol.Vanished:
			l.remove(m.Cookie)
		case protocol.Complete: // a new holder did not name what has vanished meanwhile
			for cookie := range earlier {
				l.remove(cookie)
			}
			l.once.Do(func() { close(l.complete) })
		}
	}
}

func (l *Listener) cookies() map[uint64]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := map[uint64]bool{}
	for cookie := range l.entrance {
		known[cookie] = true
	}
	return known
}

// replacedAfter is how long the sockets of an earlier holder are served after the new one's came.
// The new ones are published a moment later.
const replacedAfter = 2 * time.Second

// add serves a namespace. Files are closed.
func (l *Listener) add(m protocol.Message, listening, diag *os.File) error {
	listener, err := net.FileListener(listening)
	_ = listening.Close()
	if err != nil {
		_ = diag.Close()
		return fmt.Errorf("use listener: %w", err)
	}
	asks, err := sockdiag.New(diag)
	if err != nil {
		_ = diag.Close()
		_ = listener.Close()
		return fmt.Errorf("use sock_diag: %w", err)
	}
	e := &entrance{name: m.Namespace, listener: listener, diag: asks, accepts: make(chan struct{})}
	l.mu.Lock()
	before := l.entrance[m.Cookie]
	l.entrance[m.Cookie] = e
	l.mu.Unlock()
	if before != nil {
		time.AfterFunc(replacedAfter, before.end)
	}
	go l.accept(e)
	return nil
}

func (l *Listener) remove(cookie uint64) {
	l.mu.Lock()
	e := l.entrance[cookie]
	delete(l.entrance, cookie)
	l.mu.Unlock()
	if e != nil {
		e.end()
	}
}

// end closes the sockets and waits until they are not in use.
func (e *entrance) end() {
	_ = e.listener.Close()
	<-e.accepts
	_ = e.diag.Close()
}

func (l *Listener) end() {
	for cookie := range l.cookies() {
		l.remove(cookie)
	}
}

// accept accepts the connections in one namespace.
func (l *Listener) accept(e *entrance) {
	defer close(e.accepts)
	for {
		c, err := e.listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				l.log.Error(err, "cannot accept a pod's connections", "namespace", e.name)
			}
			return
		}
		group, err := e.diag.Group(address(c.RemoteAddr()), address(c.LocalAddr()))
		if err != nil {
			l.log.V(1).Info("a caller is unknown to the kernel", "namespace", e.name, "reason", err.Error())
		}
		select {
		case l.accepted <- &Conn{Conn: c, Group: group}:
		case <-l.closed:
			_ = c.Close()
			return
		}
	}
}

func address(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}
