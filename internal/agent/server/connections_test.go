package server

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// places is a bounded listener whose clients say who they are.
type places struct {
	t        *testing.T
	b        *bounded
	from     chan netip.Addr
	accepted chan net.Conn
}

func newPlaces(t *testing.T, limit Connections) *places {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &places{t: t, from: make(chan netip.Addr, 16), accepted: make(chan net.Conn, 16)}
	p.b = newBounded(caller{l, p.from}, limit, newBrake())
	go func() {
		defer close(p.accepted)
		for {
			c, err := p.b.Accept()
			if err != nil {
				return
			}
			p.accepted <- c
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	return p
}

// dial returns both ends of a new connection; the agent's is nil when it was not
// accepted.
func (p *places) dial(who string, accepted bool) (client, agent net.Conn) {
	p.t.Helper()
	p.from <- netip.MustParseAddr(who)
	c, err := net.Dial("tcp", p.b.Addr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	if !accepted {
		p.closed(c)
		return c, nil
	}
	select {
	case a := <-p.accepted:
		return c, a
	case <-time.After(10 * time.Second):
		p.t.Fatalf("%s was not accepted", who)
		return nil, nil
	}
}

// closed expects that the agent closes the connection without a word.
func (p *places) closed(c net.Conn) {
	p.t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	var late net.Error
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &late) && late.Timeout() {
		p.t.Errorf("not closed: %v", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	const web, api, job = "10.0.0.2", "::ffff:10.0.0.3", "10.0.0.4"
	p := newPlaces(t, Connections{Most: 3, MostPerAddress: 2})
	first, firstAgent := p.dial(web, true)
	_, second := p.dial(web, true)
	p.dial(web, false)
	_, third := p.dial(api, true)
	if from := originOf(third, newPorts()); from.Addr != netip.MustParseAddr("10.0.0.3") {
		t.Errorf("peer %v", from)
	}
	// All places are taken: web has most, and its first has been idle for longest.
	_, fourth := p.dial(job, true)
	p.closed(first)
	p.dial(api, false) // nobody has more than api would have
	for range 2 {      // closing twice counts once
		_ = firstAgent.Close()
		_ = second.Close()
	}
	_, fifth := p.dial(api, true)
	for _, c := range []net.Conn{third, fourth, fifth} {
		_ = c.Close()
	}
	if p.b.all != 0 || len(p.b.open) != 0 {
		t.Errorf("left over: %d, %v", p.b.all, p.b.open)
	}
	_ = p.b.Close()
	if _, open := <-p.accepted; open {
		t.Error("accepted more")
	}
}

// TestIdleGiveWay: of the greediest, one without a request goes; when all have
// one, any.
func TestIdleGiveWay(t *testing.T) {
	p := newPlaces(t, Connections{Most: 4, MostPerAddress: 3})
	var clients []net.Conn
	for i, idle := range []int64{0, 50, 20} { // 0 is busy
		c, agent := p.dial("10.0.0.2", true)
		clients = append(clients, c)
		own, ok := agent.(*conn)
		if !ok {
			t.Fatalf("connection %d is %T", i, agent)
		}
		own.idle.Store(idle)
	}
	p.dial("10.0.0.3", true)
	p.dial("10.0.0.4", true)
	p.closed(clients[2])
	if n := len(p.b.open[netip.MustParseAddr("10.0.0.2")]); n != 2 {
		t.Errorf("the greediest has %d, want 2", n)
	}
}

func TestBrake(t *testing.T) {
	b := newBrake()
	bad, good := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	for i := range badBurst {
		if wait := b.count(bad); wait != 0 {
			t.Fatalf("request %d waits for %v", i, wait)
		}
	}
	if wait := b.count(bad) + b.count(bad); wait <= 0 || wait > time.Second {
		t.Errorf("the next two wait for %v", wait)
	}
	if wait := b.count(good); wait != 0 {
		t.Errorf("the neighbour waits for %v", wait)
	}
	for range badMost {
		b.count(bad)
	}
	if !b.locked(bad) || b.locked(good) {
		t.Errorf("locked: %v, %v; want true, false", b.locked(bad), b.locked(good))
	}
	// What is atoned for is forgotten.
	b.sins[bad].at = time.Now().Add(-time.Hour)
	b.purge = time.Time{}
	if wait := b.count(good); wait != 0 || len(b.sins) != 1 || b.locked(bad) {
		t.Errorf("after an hour: wait %v, %d addresses remembered", wait, len(b.sins))
	}
}
