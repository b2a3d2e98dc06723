package connections

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/attest"
)

// TestSlowHeader: a client that does not complete its request is disconnected.
func TestSlowHeader(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, attest.NewOrigins(), func(http.ResponseWriter, *http.Request) {}, Limits{Total: 8, PerSource: 8}, logr.Discard())
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "GET /metadata/instance HTTP/1.1\r\nMetadata: tr"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(headerTime + 10*time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection is still open: %v", err)
	}
}
