package server

import (
	"io"
	"net"
	"testing"
	"time"
)

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
