// The older agent's side: it listens for newer agents and hands its listeners over.

package handover

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Open starts to listen for newer agents. Call it before they can read the secret, that is before
// the rules are written.
func (s *Session) Open() error {
	server, err := net.ListenUnix("unixpacket", address(s.secret))
	if err != nil {
		return fmt.Errorf("listen for a newer agent: %w", err)
	}
	s.mu.Lock()
	s.server = server
	s.mu.Unlock()
	return nil
}

// maxGreeting bounds the connections whose first message is awaited, each for helloTimeout. Any
// process of an agent's user can connect, and must not keep an agent out.
const (
	maxGreeting  = 16
	helloTimeout = time.Second
)

// Run serves newer agents, one after the other, until ctx ends. While one is connected, the next
// one waits. takeBack restores this agent's rules after a newer agent had them. Call Run after
// Open.
func (s *Session) Run(ctx context.Context, takeBack func(context.Context) error) {
	s.mu.Lock()
	server := s.server
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	var greeting sync.WaitGroup
	defer greeting.Wait()
	places, turn := make(chan struct{}, maxGreeting), make(chan struct{}, 1)
	for {
		conn, err := server.AcceptUnix()
		if err != nil {
			if ctx.Err() == nil {
				s.log.Error(err, "stopped listening for newer agents: requests fail for a moment during the next upgrade")
			}
			return
		}
		select {
		case places <- struct{}{}:
		default:
			_ = conn.Close() // it may connect again
			continue
		}
		greeting.Go(func() {
			stopConn := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stopConn()
			defer func() { _ = conn.Close() }() // nothing more is expected of it
			hello, err := s.greet(conn)
			<-places
			if err != nil {
				s.log.V(1).Info("rejected handover connection", "reason", err.Error())
				return
			}
			select {
			case turn <- struct{}{}:
				s.serve(ctx, conn, hello, takeBack)
				<-turn
			case <-ctx.Done():
			}
		})
	}
}

// greet authenticates a newer agent and returns its first message.
func (s *Session) greet(conn *net.UnixConn) (message, error) {
	if err := errors.Join(checkUser(conn), conn.SetReadDeadline(time.Now().Add(helloTimeout))); err != nil {
		return message{}, err
	}
	hello, sockets, err := receive(conn)
	closeAll(sockets)
	if err != nil {
		return hello, err
	}
	if !hmac.Equal([]byte(hello.Proof), []byte(proof(s.secret, roleNewer))) {
		return hello, errors.New("wrong proof: it does not know the secret")
	}
	return hello, conn.SetReadDeadline(time.Time{})
}

// serve handles the connection of one newer agent until it ends.
func (s *Session) serve(ctx context.Context, conn *net.UnixConn, hello message, takeBack func(context.Context) error) {
	given, err := s.handOver(conn, hello)
	if err != nil {
		s.log.Info("cannot hand over to a newer agent", "reason", err.Error())
		return
	}
	s.log.Info("handed over to a newer agent that is starting", "listeners", len(given.listeners))
	s.setState(Starting)
	err = s.readMessages(ctx, conn, given, takeBack)
	if ctx.Err() != nil {
		return // this agent exits, and the newer one continues
	}
	given.resume()
	s.setState(Alone)
	if !errors.Is(err, errHandedBack) {
		s.log.Info("lost the newer agent, taking over again")
		if err := takeBack(ctx); err != nil {
			s.log.Error(err, "cannot restore the redirect at once, retrying")
		}
	}
}

// handed is what was handed to a newer agent.
type handed struct {
	listeners []*listener
	later     []*listener // those of listeners that accept here until the newer agent serves pods
}

func (h handed) resume() {
	for _, l := range h.listeners {
		l.resume()
	}
}

// handOver sends a newer agent the listeners that it requests, and what it may know.
func (s *Session) handOver(conn *net.UnixConn, hello message) (given handed, err error) {
	found, open := s.find(hello.Listeners)
	given.listeners = open
	for i, spec := range found {
		if spec.Later {
			given.later = append(given.later, open[i])
		} else {
			open[i].pause()
		}
	}
	items := s.offered(hello.Items)
	err = withSockets(open, nil, func(fds []int) error {
		return send(conn, message{Proof: proof(s.secret, roleOlder), Listeners: found, Items: hello.Items}, fds...)
	})
	if err == nil && hello.Items {
		err = sendItems(conn, items)
	}
	if err != nil {
		given.resume()
	}
	return given, err
}

// offered returns the items for a newer agent that wants them.
func (s *Session) offered(wanted bool) [][]byte {
	s.mu.Lock()
	offer := s.items
	s.mu.Unlock()
	if !wanted || offer == nil {
		return nil
	}
	items := slices.DeleteFunc(offer(), func(item []byte) bool { return len(item) == 0 || len(item) > MaxItem })
	items = items[:min(len(items), MaxItems)]
	size := 0
	for i, item := range items {
		if size += len(item); size > maxBytes {
			return items[:i]
		}
	}
	return items
}

// itemsTimeout is how long it may take to send items. The rest is left out: a newer agent can do
// without.
const itemsTimeout = 2 * time.Second

// endOfItems follows the items.
const endOfItems = "{}"

// sendItems sends a packet for each item, and the end.
func sendItems(conn *net.UnixConn, items [][]byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(itemsTimeout)); err != nil {
		return err
	}
	for _, item := range items {
		if _, err := conn.Write(item); err != nil {
			break
		}
	}
	if err := conn.SetWriteDeadline(time.Now().Add(messageTimeout)); err != nil {
		return err
	}
	_, err := conn.Write([]byte(endOfItems))
	return err
}

// withSockets calls f with the file descriptors of the listeners, which stay valid until f returns.
func withSockets(open []*listener, fds []int, f func([]int) error) error {
	if len(open) == 0 {
		return f(fds)
	}
	raw, err := open[0].SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = withSockets(open[1:], append(fds, int(fd)), f) })
	return errors.Join(err, inner)
}

// errHandedBack reports that the newer agent disconnected after it had handed everything back.
var errHandedBack = errors.New("the newer agent handed back and stopped")

// readMessages handles the messages of a newer agent until it disconnects. It returns errHandedBack
// or io.EOF.
func (s *Session) readMessages(ctx context.Context, conn *net.UnixConn, given handed, takeBack func(context.Context) error) error {
	back := false
	for {
		m, sockets, err := receive(conn)
		closeAll(sockets)
		switch {
		case err != nil && back:
			return errHandedBack
		case err != nil:
			return io.EOF // whatever the error, it is gone
		}
		switch m.State {
		case stateServing:
			for _, l := range given.later {
				l.pause()
			}
			s.setState(Serving)
			s.log.Info("the newer agent serves pods")
		case stateLeaving:
			if !s.mayTakeBack() {
				_ = send(conn, message{State: stateLeaving}) // if it fails, the newer agent sees the end of the connection
				continue
			}
			if err := takeBack(ctx); err != nil {
				s.log.Error(err, "cannot take the redirect back from a newer agent that is stopping")
				_ = send(conn, message{State: stateLeaving}) // as above
				continue
			}
			given.resume()
			s.setState(Alone)
			s.log.Info("the newer agent is stopping, took over again")
			back = true
			if err := send(conn, message{State: stateServing}); err != nil {
				return errHandedBack
			}
		}
	}
}

// mayTakeBack reports whether this agent can serve again.
func (s *Session) mayTakeBack() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.stopping
}
