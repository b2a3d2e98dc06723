// The older agent's side.

package handover

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Open opens the line for newer agents. Call it before the word can be read by them, that is before the rules are written.
func (l *Line) Open() error {
	server, err := net.ListenUnix("unixpacket", address(l.word))
	if err != nil {
		return fmt.Errorf("open the line for the next agent: %w", err)
	}
	l.mu.Lock()
	l.server = server
	l.mu.Unlock()
	return nil
}

// Run answers newer agents, one after the other, until ctx ends. A newer agent that comes while another is there waits
// for its end. takeBack puts this agent's rules in place again, after a newer one had them. Call it after Open.
func (l *Line) Run(ctx context.Context, takeBack func(context.Context) error) {
	l.mu.Lock()
	server := l.server
	l.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	for {
		conn, err := server.AcceptUnix()
		if err != nil {
			if ctx.Err() == nil {
				l.log.Error(err, "the line for the next agent is broken: an upgrade will refuse requests for a moment")
			}
			return
		}
		hangUp := context.AfterFunc(ctx, func() { _ = conn.Close() })
		l.serve(ctx, conn, takeBack)
		hangUp()
		_ = conn.Close() // read to its end, or not worth it
	}
}

// serve is one newer agent's time.
func (l *Line) serve(ctx context.Context, conn *net.UnixConn, takeBack func(context.Context) error) {
	given, err := l.give(conn)
	if err != nil {
		l.log.V(1).Info("somebody called who is no newer agent", "reason", err.Error())
		return
	}
	l.log.Info("a newer agent is starting", "listeners", len(given.listeners))
	l.setState(Starting)
	err = l.follow(ctx, conn, given, takeBack)
	if ctx.Err() != nil {
		return // this agent ends, and the newer one goes on
	}
	given.wake()
	l.setState(Alone)
	if !errors.Is(err, errLeft) {
		l.log.Info("the newer agent is gone, this one goes on")
		if err := takeBack(ctx); err != nil {
			l.log.Error(err, "cannot take the redirect back at once, trying again")
		}
	}
}

// gift is what was given to a newer agent.
type gift struct {
	listeners []*listener
	later     []*listener
}

func (g gift) wake() {
	for _, l := range g.listeners {
		l.wake()
	}
}

// give checks who calls, and hands the listeners over.
func (l *Line) give(conn *net.UnixConn) (given gift, err error) {
	if err := errors.Join(sameUser(conn, os.Geteuid()), conn.SetReadDeadline(time.Now().Add(patience))); err != nil {
		return given, err
	}
	hello, sockets, err := receive(conn)
	closeAll(sockets)
	if err != nil {
		return given, err
	}
	if !hmac.Equal([]byte(hello.Proof), []byte(proof(l.word, roleNewer))) {
		return given, errors.New("it does not know the word")
	}
	found, open := l.find(hello.Listeners)
	given.listeners = open
	for i, w := range found {
		if w.Later {
			given.later = append(given.later, open[i])
		} else {
			open[i].rest()
		}
	}
	err = withSockets(open, nil, func(fds []int) error {
		return send(conn, message{Proof: proof(l.word, roleOlder), Listeners: found}, fds...)
	})
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		given.wake()
	}
	return given, err
}

// withSockets calls f with the numbers of the listeners' sockets, which stay valid meanwhile.
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

// errLeft is the end of a newer agent that gave everything back before.
var errLeft = errors.New("the newer agent left")

// follow hears what becomes of a newer agent, until its end.
func (l *Line) follow(ctx context.Context, conn *net.UnixConn, given gift, takeBack func(context.Context) error) error {
	left := false
	for {
		m, sockets, err := receive(conn)
		closeAll(sockets)
		switch {
		case err != nil && left:
			return errLeft
		case err != nil:
			return io.EOF // whatever the reason, it is gone
		}
		switch m.State {
		case saysServing:
			for _, later := range given.later {
				later.rest()
			}
			l.setState(Serving)
			l.log.Info("the newer agent serves pods")
		case saysLeaving:
			if !l.mayTakeBack() {
				_ = send(conn, message{State: saysLeaving}) // it would see our end as well
				continue
			}
			if err := takeBack(ctx); err != nil {
				l.log.Error(err, "cannot take the redirect back from an agent that leaves")
				_ = send(conn, message{State: saysLeaving}) // as above
				continue
			}
			given.wake()
			l.setState(Alone)
			l.log.Info("the newer agent leaves, this one goes on")
			left = true
			if err := send(conn, message{State: saysServing}); err != nil {
				return errLeft
			}
		}
	}
}

func (l *Line) mayTakeBack() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.leaving
}
