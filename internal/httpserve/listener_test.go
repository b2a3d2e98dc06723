package httpserve

import (
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// pipes is a listener whose connections come from within the process, from the sources that the
// clients name.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

type pipe struct {
	net.Conn
	source string
}

func pipeSource(c net.Conn) string { return c.(pipe).source }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// dial returns the client's end of a new connection.
func (p *pipes) dial(source string) net.Conn {
	client, server := net.Pipe()
	p.conns <- pipe{server, source}
	return client
}

// isOpen reports whether the other end of a connection is open.
func isOpen(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Nanosecond))
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestEviction opens connections one after the other, some time apart, and checks which of them are
// open at the end. "a" is a connection of source a, "A" one whose request is being answered, "-" a
// closed one. Without an expectation, any one connection of source a is closed.
func TestEviction(t *testing.T) {
	limits := Limits{Total: 4, PerSource: 3}
	for _, tt := range []struct {
		name, dialed, open string
		every              time.Duration
	}{
		{"room for all", "aabb", "aabb", 2 * time.Second},
		{"beyond the share of a source its longest idle one goes", "aaaa", "-aaa", 2 * time.Second},
		{"the newest one goes if no other is idle for a second", "aaaa", "aaa-", time.Millisecond},
		{"busy ones of the same source stay", "AAAa", "AAA-", 2 * time.Second},
		{"the idle one among busy ones of the same source goes", "AaAa", "A-Aa", 2 * time.Second},
		{"the greediest gives way to one who has less", "aaabb", "-aabb", time.Millisecond},
		{"even if all of it is busy", "AAAbb", "", time.Millisecond},
		{"nobody gives way to one who would have as many", "aabba", "aabb-", time.Millisecond},
		{"a newcomer gets the place of the longest idle one", "abcde", "-bcde", 2 * time.Second},
		{"but not of one that may be about to ask", "abcde", "abcd-", time.Millisecond},
		{"nor of a busy one", "AbCDe", "A-CDe", 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipes()
				l := NewListener(p, limits, pipeSource)
				var newest *Conn
				go func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						newest = c.(*Conn)
					}
				}()
				var clients []net.Conn
				for _, who := range tt.dialed {
					source := string(who | 0x20)
					clients = append(clients, p.dial(source))
					synctest.Wait()
					if string(who) != source {
						newest.beginRequest()
					}
					time.Sleep(tt.every) //nolint:forbidigo // fake time
				}
				open := ""
				for i, c := range clients {
					if isOpen(c) {
						open += tt.dialed[i : i+1]
					} else {
						open += "-"
					}
				}
				if tt.open == "" { // any of the source a
					open, tt.open = strings.ReplaceAll(open, "-", ""), strings.Replace(tt.dialed, "A", "", 1)
				}
				if open != tt.open {
					t.Errorf("%s open, want %s", open, tt.open)
				}
				for _, c := range clients {
					_ = c.Close()
				}
				for c := range l.all() {
					_ = c.Close()
					_ = c.Close() // frees one place only
				}
				if l.open != 0 || len(l.sources) != 0 {
					t.Errorf("%d places and %d sources are left", l.open, len(l.sources))
				}
				_ = p.Close()
			})
		})
	}
}

func TestRemoteIP(t *testing.T) {
	for want, address := range map[string]net.Addr{
		"10.0.0.3": &net.TCPAddr{IP: net.ParseIP("::ffff:10.0.0.3"), Port: 1},
		"fe80::1":  &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"},
		"":         &net.UnixAddr{Name: "@"},
	} {
		if got := RemoteIP(addressed{remote: address}); got != want {
			t.Errorf("%v: %q, want %q", address, got, want)
		}
	}
}

type addressed struct {
	net.Conn
	remote net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.remote }

// TestKernelBuffers: the kernel's buffers of a connection are bounded, even if the connection is
// wrapped.
func TestKernelBuffers(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(wrapping{inner}, Limits{Total: 1, PerSource: 1, ReadBuffer: 8 << 10, WriteBuffer: 16 << 10}, nil)
	t.Cleanup(func() { _ = l.Close() })
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	raw, err := c.(*Conn).NetConn().(wrapped).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for option, most := range map[int]int{unix.SO_RCVBUF: 16 << 10, unix.SO_SNDBUF: 32 << 10} {
		var got int
		var failed error
		if err := raw.Control(func(fd uintptr) { got, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option) }); err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		if got > most {
			t.Errorf("option %d: %d bytes, want %d at most", option, got, most)
		}
	}
}

type wrapping struct{ net.Listener }

func (l wrapping) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return wrapped{c}, err
}

type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

// TestSameHost: the kubelet gets a place even if each of the others has one connection that is not
// idle.
func TestSameHost(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sources := 0
	l := NewListener(inner, Limits{Total: 2, PerSource: 2, ReadBuffer: 4096, WriteBuffer: 4096}, func(net.Conn) string {
		sources++
		return strings.Repeat("s", sources)
	})
	t.Cleanup(func() { _ = l.Close() })
	var clients []net.Conn
	for range 3 {
		client, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		clients = append(clients, client)
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = accepted.Close() })
	}
	closed := 0
	for _, client := range clients[:2] {
		_ = client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			closed++
		}
	}
	if closed != 1 {
		t.Errorf("%d of the two others were closed for it, want one", closed)
	}
}

// TestEqualHosts: where each connection looks like one of the same host, none gets the place of
// another.
func TestEqualHosts(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sources := 0
	l := NewListener(inner, Limits{Total: 1, PerSource: 1, ReadBuffer: 4096, WriteBuffer: 4096, EqualHosts: true}, func(net.Conn) string {
		sources++
		return strings.Repeat("s", sources)
	})
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	dial := func() net.Conn {
		client, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	first := dial()
	defer func() { _ = (<-accepted).Close() }()
	second := dial()
	_ = second.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := second.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the second was not refused: %v", err)
	}
	_ = first.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first was closed for it: %v", err)
	}
}

// TestLeft: a connection that its client has closed gives its place to the next one of the same
// source at once. One that is open does not.
func TestLeft(t *testing.T) {
	for _, tt := range []struct {
		name          string
		leaves, reset bool
	}{
		{"closed", true, false},
		{"reset", true, true},
		{"open", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tcp, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l := NewListener(wrapping{tcp}, Limits{Total: 4, PerSource: 1, ReadBuffer: 8 << 10, WriteBuffer: 8 << 10}, nil)
			dial := func() net.Conn {
				c, err := new(net.Dialer).DialContext(t.Context(), "tcp4", tcp.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				return c
			}
			first := dial()
			served, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if tt.reset {
				if err := first.(*net.TCPConn).SetLinger(0); err != nil {
					t.Fatal(err)
				}
			}
			if tt.leaves {
				_ = first.Close()
				awaitEnd(t, served.(*Conn).NetConn().(wrapped).Conn.(*net.TCPConn))
			}
			// However slow the test is, it does not give its place because it is idle.
			served.(*Conn).idleSince.Store(time.Now().Add(time.Hour).UnixNano())
			second := dial()
			go func() { // ends when the listener closes the second connection, or the test does
				_, _ = second.Read(make([]byte, 1))
				_ = l.Close()
			}()
			if _, err := l.Accept(); (err == nil) != tt.leaves {
				t.Errorf("the second connection: %v", err)
			}
			_ = l.Close()
		})
	}
}

// awaitEnd returns once the kernel knows that the client of a connection has left. Unlike a read it
// leaves the connection's error to the next reader.
func awaitEnd(t *testing.T, c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	ended, failed := 0, error(nil)
	err = raw.Control(func(fd uintptr) {
		const most = 10_000 // milliseconds
		ended, failed = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, most)
	})
	if err = errors.Join(err, failed); err != nil || ended != 1 {
		t.Fatalf("the client has not left: %v", err)
	}
}
