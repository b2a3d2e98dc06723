// The newer agent's side.

package handover

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Older is the agent that this one takes over from.
type Older struct {
	conn *net.UnixConn
	gone chan struct{}
	back chan bool // whether it has taken everything back; at most one
}

// Join calls the agent with that word, and takes over the listeners it has of those wanted: Listen returns them. An
// address in later is one where the older agent goes on accepting until Serving is called.
func (l *Line) Join(ctx context.Context, word string, now, later []string) (*Older, error) {
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(ctx, "unixpacket", address(word).Name)
	if err != nil {
		return nil, fmt.Errorf("call the older agent: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("call the older agent: no Unix socket"), c.Close())
	}
	if err := l.inherit(conn, word, now, later); err != nil {
		return nil, errors.Join(fmt.Errorf("take over from the older agent: %w", err), conn.Close())
	}
	o := &Older{conn: conn, gone: make(chan struct{}), back: make(chan bool, 1)}
	go o.hear()
	return o, nil
}

func (l *Line) inherit(conn *net.UnixConn, word string, now, later []string) error {
	hello := message{Proof: proof(word, roleNewer)}
	for _, a := range now {
		hello.Listeners = append(hello.Listeners, wanted{Address: a})
	}
	for _, a := range later {
		hello.Listeners = append(hello.Listeners, wanted{Address: a, Later: true})
	}
	if err := errors.Join(sameUser(conn, os.Geteuid()), send(conn, hello), conn.SetReadDeadline(time.Now().Add(patience))); err != nil {
		return err
	}
	answer, sockets, err := receive(conn)
	if err != nil {
		return err
	}
	if !hmac.Equal([]byte(answer.Proof), []byte(proof(word, roleOlder))) || len(sockets) != len(answer.Listeners) {
		closeAll(sockets)
		return errors.New("it does not know its own word")
	}
	for i, w := range answer.Listeners {
		file := os.NewFile(uintptr(sockets[i]), w.Address)
		open, listenErr := net.FileListener(file)
		if err := errors.Join(listenErr, file.Close()); err != nil { // FileListener has a copy of its own
			return err
		}
		l.mu.Lock()
		l.inherited[w.Address] = open
		l.mu.Unlock()
	}
	return conn.SetReadDeadline(time.Time{})
}

// hear waits for what the older agent says, until it ends.
func (o *Older) hear() {
	defer close(o.gone)
	for {
		m, sockets, err := receive(o.conn)
		closeAll(sockets)
		if err != nil {
			return
		}
		select {
		case o.back <- m.State == saysServing:
		default: // nobody asked
		}
	}
}

// Gone is closed when the older agent has ended.
func (o *Older) Gone() <-chan struct{} { return o.gone }

// Serving tells the older agent that this one serves pods.
func (o *Older) Serving() error { return send(o.conn, message{State: saysServing}) }

// Leave gives everything back to the older agent, and tells whether it serves pods now.
func (o *Older) Leave(ctx context.Context) bool {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := send(o.conn, message{State: saysLeaving}); err != nil {
		return false // it is gone
	}
	select {
	case back := <-o.back:
		return back
	case <-o.gone:
	case <-bounded.Done():
	}
	return false
}

// Close ends the line to the older agent, which takes back what it gave.
func (o *Older) Close() { _ = o.conn.Close() }
