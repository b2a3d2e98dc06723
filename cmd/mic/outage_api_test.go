package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// road leads to the API server, and can be closed.
type road struct {
	t       *testing.T
	address string // where it begins
	to      string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
}

func newRoad(t *testing.T, to string) *road {
	r := &road{t: t, address: "127.0.0.1:0", to: to, conns: map[net.Conn]bool{}}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *road) open() {
	listener, err := new(net.ListenConfig).Listen(r.t.Context(), "tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listener, r.address = listener, listener.Addr().String()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go r.pass(conn)
		}
	}()
}

func (r *road) pass(from net.Conn) {
	to, err := new(net.Dialer).DialContext(context.Background(), "tcp", r.to)
	if err != nil {
		_ = from.Close()
		return
	}
	r.mu.Lock()
	r.conns[from], r.conns[to] = true, true
	r.mu.Unlock()
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() {
			_, _ = io.Copy(way[0], way[1]) // whatever ends it
			done <- struct{}{}
		}()
	}
	<-done
	_, _ = from.Close(), to.Close()
	<-done
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, from)
	delete(r.conns, to)
}

func (r *road) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.listener.Close()
	for c := range r.conns {
		_ = c.Close()
	}
}

// TestOutages: the API server goes away and comes back, again and again: MIC stops
// leading, comes back soon, hears of changes, and leaves nothing behind.
func TestOutages(t *testing.T) {
	env, kubeconfig := startAPI(t)
	installCRDs(t, env.Config)
	c, err := client.New(env.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	host := strings.Trim(strings.TrimPrefix(env.Config.Host, "https://"), "/")
	road := newRoad(t, host)
	through := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(through, []byte(strings.ReplaceAll(string(text), host, road.address)), 0o600); err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	leader := start(t, through, "--leader-election-instance=leader", "--leader-election-duration=4s")
	leader.wait("/healthz", http.StatusOK, "Active")
	standby := start(t, through, "--leader-election-instance=standby", "--leader-election-duration=4s")
	standby.wait("/readyz", http.StatusOK, "ok")
	for range 3 {
		road.close()
		leader.wait("/healthz", http.StatusOK, "Not Active")
		leader.wait("/readyz", http.StatusServiceUnavailable, "connection refused")
		standby.wait("/readyz", http.StatusServiceUnavailable, "kubernetes: ")
		road.open()
		began := time.Now()
		standby.wait("/readyz", http.StatusOK, "ok")
		leader.wait("/readyz", http.StatusOK, "ok")
		leader.eventually("one leads", func() string {
			_, one := leader.get("probes", "/healthz")
			_, other := standby.get("probes", "/healthz")
			if (one == "Active") == (other == "Active") {
				return one + ", " + other
			}
			return ""
		})
		t.Logf("works again after %v", time.Since(began).Round(time.Millisecond))
	}
	// Whoever leads hears of a node, and asks Azure, which does not answer.
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.NodeSpec{
		ProviderID: "azure:///subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm",
	}}
	if err := c.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	leader.eventually("asks Azure", func() string {
		_, one := leader.get("probes", "/readyz")
		_, other := standby.get("probes", "/readyz")
		if !strings.Contains(one+other, "azure: ") {
			return one + other
		}
		return ""
	})
	leader.end()
	standby.end()
	http.DefaultClient.CloseIdleConnections()
	road.close()
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}
