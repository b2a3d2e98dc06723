// The newer agent's side: it joins the session of the older agent and inherits its listeners.

package handover

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"time"
)

// OlderAgent is the connection to the agent that this one takes over from.
type OlderAgent struct {
	conn  *net.UnixConn
	gone  chan struct{}
	reply chan bool // whether it has taken everything back; holds at most one
}

// Join connects to the agent with the secret and inherits its listeners at the addresses in now and
// later, as far as it has them. Listen returns them. At those in later the older agent accepts
// until ReportServing is called.
func (s *Session) Join(ctx context.Context, secret string, now, later []string) (*OlderAgent, error) {
	d := net.Dialer{Timeout: messageTimeout}
	c, err := d.DialContext(ctx, "unixpacket", address(secret).Name)
	if err != nil {
		return nil, fmt.Errorf("connect to the older agent: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("connect to the older agent: not a Unix socket"), c.Close())
	}
	if err := s.inherit(conn, secret, now, later); err != nil {
		return nil, errors.Join(fmt.Errorf("take over from the older agent: %w", err), conn.Close())
	}
	o := &OlderAgent{conn: conn, gone: make(chan struct{}), reply: make(chan bool, 1)}
	go o.readLoop()
	return o, nil
}

// inherit requests the listeners, and records what it receives once it has all.
func (s *Session) inherit(conn *net.UnixConn, secret string, now, later []string) error {
	hello := message{Proof: proof(secret, roleNewer), Items: true}
	for _, a := range now {
		hello.Listeners = append(hello.Listeners, listenerSpec{Address: a})
	}
	for _, a := range later {
		hello.Listeners = append(hello.Listeners, listenerSpec{Address: a, Later: true})
	}
	if err := errors.Join(checkUser(conn), send(conn, hello), conn.SetReadDeadline(time.Now().Add(messageTimeout))); err != nil {
		return err
	}
	response, sockets, err := receive(conn)
	if err != nil {
		return err
	}
	if !hmac.Equal([]byte(response.Proof), []byte(proof(secret, roleOlder))) || len(sockets) != len(response.Listeners) {
		closeAll(sockets)
		return errors.New("wrong proof: it does not know the secret, or sent another number of sockets than of listeners")
	}
	inherited, err := listenersOf(response.Listeners, sockets)
	if err != nil {
		return err
	}
	var items [][]byte
	if response.Items {
		items, err = receiveItems(conn)
	}
	if err := errors.Join(err, conn.SetReadDeadline(time.Time{})); err != nil {
		for _, l := range inherited {
			_ = l.Close() // the older agent has them, too
		}
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.inherited, inherited)
	s.received = items
	return nil
}

// listenersOf returns the listeners of sockets, by address.
func listenersOf(specs []listenerSpec, sockets []int) (map[string]net.Listener, error) {
	all := map[string]net.Listener{}
	var failures error
	for i, spec := range specs {
		file := os.NewFile(uintptr(sockets[i]), spec.Address)
		open, err := net.FileListener(file)
		failures = errors.Join(failures, err, file.Close()) // FileListener duplicates the descriptor
		if err == nil {
			all[spec.Address] = open
		}
	}
	if failures != nil {
		for _, l := range all {
			_ = l.Close()
		}
		return nil, failures
	}
	return all, nil
}

// receiveItems receives items up to the empty message.
func receiveItems(conn *net.UnixConn) (items [][]byte, err error) {
	packet := make([]byte, MaxItem)
	for range MaxItems + 1 {
		n, err := conn.Read(packet)
		if err != nil {
			return nil, fmt.Errorf("receive what the older agent knows: %w", err)
		}
		if string(packet[:n]) == endOfItems {
			return items, nil
		}
		items = append(items, bytes.Clone(packet[:n]))
	}
	return nil, errors.New("receive what the older agent knows: it does not end")
}

// readLoop reads the older agent's replies until it exits.
func (o *OlderAgent) readLoop() {
	defer close(o.gone)
	for {
		m, sockets, err := receive(o.conn)
		closeAll(sockets)
		if err != nil {
			return
		}
		select {
		case o.reply <- m.State == stateServing:
		default: // no call of HandBack waits
		}
	}
}

// Gone returns a channel that is closed when the older agent has exited.
func (o *OlderAgent) Gone() <-chan struct{} { return o.gone }

// ReportServing notifies the older agent that this one serves pods.
func (o *OlderAgent) ReportServing() error { return send(o.conn, message{State: stateServing}) }

// HandBack hands everything back to the older agent. It reports whether that agent serves pods now.
func (o *OlderAgent) HandBack(ctx context.Context) bool {
	bounded, cancel := context.WithTimeout(ctx, messageTimeout)
	defer cancel()
	if err := send(o.conn, message{State: stateLeaving}); err != nil {
		return false // it is gone
	}
	select {
	case serves := <-o.reply:
		return serves
	case <-o.gone:
	case <-bounded.Done():
	}
	return false
}

// Close disconnects from the older agent, which takes back what it handed over.
func (o *OlderAgent) Close() { _ = o.conn.Close() }
