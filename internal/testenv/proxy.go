package testenv

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// Proxy forwards connections to an API server, and can be cut.
type Proxy struct {
	// Address is where it listens.
	Address string

	t  testing.TB
	to string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
}

// NewProxy starts a proxy to an API server, on loopback.
func NewProxy(t testing.TB, config *rest.Config) *Proxy {
	t.Helper()
	p := &Proxy{Address: "127.0.0.1:0", t: t, to: HostPort(config), conns: map[net.Conn]bool{}}
	p.Open()
	t.Cleanup(p.Close)
	return p
}

// NewProxyOn starts a proxy to an API server, on a listener.
func NewProxyOn(t testing.TB, listener net.Listener, config *rest.Config) *Proxy {
	p := &Proxy{t: t, to: HostPort(config), conns: map[net.Conn]bool{}}
	p.serve(listener)
	t.Cleanup(p.Close)
	return p
}

// HostPort returns the address of an API server.
func HostPort(config *rest.Config) string {
	return strings.Trim(strings.TrimPrefix(config.Host, "https://"), "/")
}

// Open starts the proxy again after Close, at the same address.
func (p *Proxy) Open() {
	p.t.Helper()
	listener, err := new(net.ListenConfig).Listen(p.t.Context(), "tcp", p.Address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.serve(listener)
}

func (p *Proxy) serve(listener net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener, p.Address = listener, listener.Addr().String()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go p.forward(conn)
		}
	}()
}

func (p *Proxy) forward(from net.Conn) {
	to, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.to)
	if err != nil {
		_ = from.Close()
		return
	}
	p.mu.Lock()
	p.conns[from], p.conns[to] = true, true
	p.mu.Unlock()
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			done <- struct{}{}
		}()
	}
	<-done
	_, _ = from.Close(), to.Close()
	<-done
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, from)
	delete(p.conns, to)
}

// Close cuts all connections. New ones are refused.
func (p *Proxy) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.listener.Close()
	for c := range p.conns {
		_ = c.Close()
	}
}
