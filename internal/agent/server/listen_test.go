package server

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// caller is a listener whose connections come from the addresses told.
type caller struct {
	net.Listener
	from chan netip.Addr
}

func (l caller) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return pretendConn{c, <-l.from}, nil
}

func TestSlowHeaderIsCut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	t.Parallel()
	w := newWorld(t, nil)
	c, err := net.Dial("tcp", w.listen("10.9.0.2"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "GET /metadata/instance HTTP/1.1\r\nMetadata: tr"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(readHeaderTime + 10*time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection was kept: %v", err)
	}
}
