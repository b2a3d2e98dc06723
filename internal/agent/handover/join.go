// The newer agent's side: it joins the session of the older agent and inherits its listeners.

package handover

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
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

// inherit requests the listeners and records those that it receives.
func (s *Session) inherit(conn *net.UnixConn, secret string, now, later []string) error {
	hello := message{Proof: proof(secret, roleNewer), WantsItems: true}
	for _, a := range now {
		hello.Listeners = append(hello.Listeners, listenerSpec{Address: a})
	}
	for _, a := range later {
		hello.Listeners = append(hello.Listeners, listenerSpec{Address: a, Later: true})
	}
	if err := errors.Join(send(conn, hello), conn.SetReadDeadline(time.Now().Add(messageTimeout))); err != nil {
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
	for i, spec := range response.Listeners {
		file := os.NewFile(uintptr(sockets[i]), spec.Address)
		open, listenErr := net.FileListener(file)
		if err := errors.Join(listenErr, file.Close()); err != nil { // FileListener duplicates the descriptor
			return err
		}
		s.mu.Lock()
		s.inherited[spec.Address] = open
		s.mu.Unlock()
	}
	return errors.Join(s.receiveItems(conn, response.Items), conn.SetReadDeadline(time.Time{}))
}

// receiveItems receives the items that follow the listeners.
func (s *Session) receiveItems(conn *net.UnixConn, count int) error {
	if count > MaxItems {
		return fmt.Errorf("it offers %d items", count)
	}
	packet := make([]byte, MaxItem)
	for range count {
		n, err := conn.Read(packet)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.received = append(s.received, bytes.Clone(packet[:n]))
		s.mu.Unlock()
	}
	return nil
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
