// Package inpod accepts pods' connections in the pods' own network namespaces, on sockets that the
// holder (internal/hook) opened there, and learns the control group of each caller from the kernel.
package inpod

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/hook/protocol"
)

// Pods knows the pods of control groups. *podgroups.Index implements it.
type Pods interface {
	// Lookup returns the UID of the pod that a control group belongs to, or podgroups.ErrNoPod. It
	// may wait until ctx ends.
	Lookup(ctx context.Context, group uint64) (uid string, err error)
}

// HostPods are the pods on the node's network whose connections are to arrive, in the node's
// namespace. *hostpods.Set implements it.
type HostPods interface {
	// List returns the UIDs in the names of their control groups, and a channel that is closed when
	// they are to be asked for again.
	List() (groups []string, changed <-chan struct{})
}

// Listener accepts connections in all pods' namespaces. It is a net.Listener whose connections are
// *Conn.
type Listener struct {
	path         string
	perNamespace int
	pods         Pods
	hosts        HostPods
	log          logr.Logger
	staleAfter   time.Duration

	accepted chan *Conn
	closed   chan struct{}
	close    sync.Once
	complete chan struct{}
	once     sync.Once

	mu         sync.Mutex
	connection int                    // how often the holder was connected to
	entrances  map[uint64][]*entrance // by the namespace's cookie, the newest last
}

// staleAfter is how long sockets that an earlier holder passed are served after the present one has
// passed all of its own. It publishes them at once, or within a second if it fails at first.
const staleAfter = 10 * time.Second

// New returns a listener for a holder that listens at a path. It has no sockets before Run. At most
// perNamespace connections, which must be more than 0, are open in one namespace. Others wait in
// the kernel's backlog, so that a pod cannot use up the agent's descriptors.
func New(path string, perNamespace int, pods Pods, hosts HostPods, log logr.Logger) *Listener {
	return &Listener{
		path: path, perNamespace: perNamespace, pods: pods, hosts: hosts, log: log.WithName("inpod"), staleAfter: staleAfter,
		accepted: make(chan *Conn), closed: make(chan struct{}),
		complete: make(chan struct{}), entrances: map[uint64][]*entrance{},
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
// sockets that it passed before. They grow until a connection has brought all sockets: if one of
// them cannot be used, all are passed again each time.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = 10 * time.Second
)

// Run receives sockets until ctx ends, and connects again when the holder is replaced.
func (l *Listener) Run(ctx context.Context) error {
	defer l.end()
	for pause := firstPause; ; {
		complete, err := l.receive(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if complete {
			pause = firstPause
		}
		l.log.Info("no connection to the holder, retrying; pods that have started are served",
			"reason", err.Error(), "pause", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// receive connects to the holder and handles its messages until it ends. complete reports whether
// it passed all sockets.
func (l *Listener) receive(ctx context.Context) (complete bool, err error) {
	conn, err := protocol.Dial(ctx, l.path)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel() // before the wait
	asking.Go(func() {
		if err := l.ask(ctx, conn); err != nil {
			_ = conn.Close() // so that the next connection tries again
		}
	})
	l.mu.Lock()
	l.connection++
	l.mu.Unlock()
	for {
		m, files, err := conn.Receive()
		if err != nil {
			return complete, fmt.Errorf("the holder has ended: %w", err)
		}
		switch m.Kind {
		case protocol.Appeared:
			if err := l.add(m, files[0], files[1]); err != nil { //nolint:contextcheck // pods are served for longer than the holder is connected
				return complete, fmt.Errorf("serve namespace %s: %w", m.Namespace, err)
			}
		case protocol.Vanished:
			l.remove(m.Cookie)
		case protocol.Complete:
			complete = true
			l.once.Do(func() { close(l.complete) })
			dropping := l.dropStaleLater()
			defer dropping.Stop() // the next connection decides
		}
	}
}

// ask asks the holder to capture the pods on the node's network, whenever they change, until ctx
// ends.
func (l *Listener) ask(ctx context.Context, conn *protocol.Conn) error {
	for {
		groups, changed := l.hosts.List()
		if err := conn.Ask(protocol.Request{Kind: protocol.HostPods, Pods: groups}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// dropStaleLater ends, after a while, the entrances that the holder has not named since it was
// connected to: the namespace has vanished, or other sockets have replaced them. Not at once,
// because connections may still arrive there.
func (l *Listener) dropStaleLater() *time.Timer {
	l.mu.Lock()
	defer l.mu.Unlock()
	connection := l.connection
	return time.AfterFunc(l.staleAfter, func() {
		l.drop(func(e *entrance) bool { return e.named < connection })
	})
}

// add serves a namespace. The files are closed.
func (l *Listener) add(m protocol.Message, listening, diag *os.File) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, err := newEntrance(m, listening, diag, l.perNamespace)
	if err != nil {
		return err
	}
	e.named = l.connection
	for _, known := range l.entrances[m.Cookie] {
		if known.socket == e.socket { // passed again by the same holder
			known.named = l.connection
			_, _ = e.listener.Close(), e.diag.Close()
			return nil
		}
	}
	l.entrances[m.Cookie] = append(l.entrances[m.Cookie], e)
	go l.accept(e)
	return nil
}

func (l *Listener) remove(cookie uint64) {
	l.drop(func(e *entrance) bool { return e.cookie == cookie })
}

func (l *Listener) end() {
	l.drop(func(*entrance) bool { return true })
}

// drop ends some entrances.
func (l *Listener) drop(which func(*entrance) bool) {
	var dropped []*entrance
	l.mu.Lock()
	for cookie, all := range l.entrances {
		var kept []*entrance
		for _, e := range all {
			if which(e) {
				dropped = append(dropped, e)
			} else {
				kept = append(kept, e)
			}
		}
		if l.entrances[cookie] = kept; kept == nil {
			delete(l.entrances, cookie)
		}
	}
	l.mu.Unlock()
	for _, e := range dropped {
		e.end()
	}
}
