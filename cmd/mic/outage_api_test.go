package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/podid-io/podid/internal/testenv"
)

// proxy forwards connections to the API server, and can be closed.
type proxy struct {
	t       *testing.T
	address string
	to      string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
}

func newProxy(t *testing.T, to string) *proxy {
	p := &proxy{t: t, address: "127.0.0.1:0", to: to, conns: map[net.Conn]bool{}}
	p.open()
	t.Cleanup(p.close)
	return p
}

func (p *proxy) open() {
	listener, err := new(net.ListenConfig).Listen(p.t.Context(), "tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener, p.address = listener, listener.Addr().String()
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

func (p *proxy) forward(from net.Conn) {
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

func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.listener.Close()
	for c := range p.conns {
		_ = c.Close()
	}
}

// TestOutages cuts two MICs off the API server several times: the leader exits, the standby says
// why it is not ready, and both recover soon after the API server is back.
func TestOutages(t *testing.T) {
	env, kubeconfig := startAPI(t)
	testenv.InstallCRDs(t, env.Config)
	c := testenv.Client(t, env.Config)
	text, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	host := strings.Trim(strings.TrimPrefix(env.Config.Host, "https://"), "/")
	proxy := newProxy(t, host)
	proxied := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(proxied, []byte(strings.ReplaceAll(string(text), host, proxy.address)), 0o600); err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	leader := start(t, proxied, "--leader-election-instance=0", "--leader-election-duration=4s")
	leader.wait("/healthz", http.StatusOK, "Active")
	standby := start(t, proxied, "--leader-election-instance=1", "--leader-election-duration=4s")
	standby.wait("/readyz", http.StatusOK, "ok")
	for i := range 3 {
		proxy.close()
		leader.fails("could not be renewed in time")
		standby.wait("/readyz", http.StatusServiceUnavailable, "kubernetes: ")
		restarted := start(t, proxied, "--leader-election-instance="+strconv.Itoa(i+2), "--leader-election-duration=4s")
		restarted.wait("/readyz", http.StatusServiceUnavailable, "connection refused")
		proxy.open()
		began := time.Now()
		standby.wait("/readyz", http.StatusOK, "ok")
		restarted.wait("/readyz", http.StatusOK, "ok")
		leader, standby = oneLeads(standby, restarted)
		t.Logf("works again after %v", time.Since(began).Round(time.Millisecond))
	}
	// The leader receives the event of a new node and asks Azure, which does not respond.
	testenv.Create(t, c, azureNode())
	leader.wait("/readyz", http.StatusServiceUnavailable, "azure: ")
	leader.end()
	standby.end()
	http.DefaultClient.CloseIdleConnections()
	proxy.close()
	// A standby that never led has not started its event broadcaster.
	if err := goleak.Find(before, goleak.IgnoreTopFunction("k8s.io/apimachinery/pkg/watch.(*Broadcaster).loop")); err != nil {
		t.Error(err)
	}
}

// oneLeads waits until exactly one of two MICs leads.
func oneLeads(a, b *running) (leader, standby *running) {
	a.t.Helper()
	a.eventually("one leads", func() string {
		_, one := a.get("probes", "/healthz")
		_, other := b.get("probes", "/healthz")
		if (one == "Active") == (other == "Active") {
			return one + ", " + other
		}
		leader, standby = a, b
		if other == "Active" {
			leader, standby = b, a
		}
		return ""
	})
	return leader, standby
}
