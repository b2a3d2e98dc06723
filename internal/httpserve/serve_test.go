package httpserve

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
)

const (
	head = "GET / HTTP/1.1\r\nHost: x\r\n"
	// long is more than a pipe and the buffers of net/http take.
	long = 64 << 10
)

// serve serves an answer of some length on pipes until the test ends.
func serve(t *testing.T, answer http.HandlerFunc, change func(*Server)) *pipes {
	p := newPipes()
	s := &Server{
		Handler: answer, Limits: Limits{Total: 8, PerSource: 8}, Source: pipeSource,
		HeaderTime: 5 * time.Second, BodyTime: 5 * time.Second, IdleTime: time.Minute, AnswerTime: 10 * time.Second, Grace: time.Second,
		Log: logr.Discard(),
	}
	if change != nil {
		change(s)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, p) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		synctest.Wait()
	})
	return p
}

// TestSlowClients: whatever a client fails to do, its connection is closed in time.
func TestSlowClients(t *testing.T) {
	short := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }
	large := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", long)) }
	held := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(time.Minute):
		}
		large(w, r)
	}
	noLimit := func(s *Server) { s.AnswerTime, s.ResponseTime = 0, 10*time.Second }
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		change func(*Server)
		client func(net.Conn)
		closed time.Duration
	}{
		{"sends nothing", short, nil, func(net.Conn) {}, 5 * time.Second},
		{"sends its header slowly", short, nil, func(c net.Conn) { drip(c, head+strings.Repeat("X: y\r\n", 100)) }, 5 * time.Second},
		{"sends no body", short, nil, func(c net.Conn) { ask(c, head+"Content-Length: 10\r\n\r\n") }, 10 * time.Second},
		{"sends its body slowly", short, nil, func(c net.Conn) { drip(c, head+"Content-Length: 1000\r\n\r\n"+strings.Repeat("x", 1000)) }, 13 * time.Second},
		{"sends chunks slowly", short, nil, func(c net.Conn) { drip(c, head+"Transfer-Encoding: chunked\r\n\r\n"+strings.Repeat("1\r\nx\r\n", 200)) }, 13 * time.Second},
		{"sends nothing more", short, nil, func(c net.Conn) { ask(c, head+"\r\n"); read(c, 1<<10) }, time.Minute},
		{"does not read", large, nil, func(c net.Conn) { ask(c, head+"\r\n") }, 10 * time.Second},
		{"reads slowly", large, nil, func(c net.Conn) { ask(c, head+"\r\n"); sip(c) }, 10 * time.Second},
		{"reads slowly what was held", held, noLimit, func(c net.Conn) { ask(c, head+"\r\n"); sip(c) }, 70 * time.Second},
		{"reads slowly the second time", large, noLimit, func(c net.Conn) {
			ask(c, head+"\r\n")
			read(c, long)
			time.Sleep(20 * time.Second) //nolint:forbidigo // fake time
			ask(c, head+"\r\n")
			sip(c)
		}, 30 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan time.Time, 1)
				p := serve(t, tt.answer, func(s *Server) {
					if tt.change != nil {
						tt.change(s)
					}
					s.ConnState = func(_ net.Conn, state http.ConnState) {
						if state == http.StateClosed {
							ended <- time.Now()
						}
					}
				})
				began := time.Now()
				c := p.dial("a")
				left := make(chan struct{})
				go func() { defer close(left); tt.client(c) }()
				if took := (<-ended).Sub(began); took > tt.closed+600*time.Millisecond { // net/http waits a bit before it closes
					t.Errorf("closed after %v, want %v", took, tt.closed)
				}
				_ = c.Close()
				<-left
			})
		})
	}
}

// ask sends a request. The connection may be closed before it is answered.
func ask(c net.Conn, request string) { _, _ = io.WriteString(c, request) }

// drip sends a byte at a time, so that no step stops entirely.
func drip(c net.Conn, request string) {
	for _, b := range []byte(request) {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // fake time
	}
	read(c, 1)
}

// sip reads some bytes at a time.
func sip(c net.Conn) {
	for {
		if _, err := c.Read(make([]byte, 64)); err != nil {
			return
		}
		time.Sleep(time.Second) //nolint:forbidigo // fake time
	}
}

// read reads an answer and its body of the length.
func read(c net.Conn, length int64) {
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, resp.Body, length)
	_ = resp.Body.Close()
}

// TestHeldRequests: without AnswerTime, a request may wait for as long as its client does, even one
// with a body that the handler has read.
func TestHeldRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
			select {
			case <-time.After(time.Hour):
				_, _ = io.WriteString(w, "ok")
			case <-r.Context().Done():
				t.Error("the request was given up")
			}
		}
		p := serve(t, hold, func(s *Server) { s.AnswerTime, s.ResponseTime = 0, 10*time.Second })
		for _, request := range []string{head + "\r\n", head + "Content-Length: 2\r\n\r\nhi"} {
			c := p.dial("a")
			go ask(c, request)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
				t.Errorf("got %q %v", body, err)
			}
			_ = resp.Body.Close()
			_ = c.Close()
		}
	})
}

// TestBrokenListener: the error of a listener that breaks is returned, and requests end.
func TestBrokenListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		s := &Server{
			Handler: http.NotFoundHandler(), Limits: Limits{Total: 1, PerSource: 1}, Source: pipeSource,
			HeaderTime: time.Second, BodyTime: time.Second, IdleTime: time.Second, AnswerTime: time.Second, Grace: time.Second,
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(t.Context(), p) }()
		c := p.dial("a")
		synctest.Wait()
		_ = p.Close()
		if err := <-done; err == nil {
			t.Error("no error")
		}
		if isOpen(c) {
			t.Error("a connection is left")
		}
	})
}
