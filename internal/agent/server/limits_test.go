package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/agent/attest"
	"github.com/podid-io/podid/internal/agent/connections"
	"github.com/podid-io/podid/internal/agent/penalty"
)

// neighbors are two pods behind an agent with real limits: one is hostile, the other has an
// identity and requests tokens. A pod 10.9.x.y connects from 127.0.x.y.
type neighbors struct {
	*world
	address string
}

const hostile, honest = "10.9.0.2", "10.9.0.3"

func loopback(pod string) netip.Addr {
	ip := netip.MustParseAddr(pod).As4()
	return netip.AddrFrom4([4]byte{127, 0, ip[2], ip[3]})
}

// fromLoopback maps the addresses back on the agent's side.
type fromLoopback struct{ net.Listener }

func (l fromLoopback) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	ip := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().As4()
	return pretendConn{c, netip.AddrFrom4([4]byte{10, 9, ip[2], ip[3]})}, nil
}

func newNeighbors(t testing.TB) *neighbors {
	w := newWorld(t, nil)
	w.pod("mallory", hostile)
	w.assign("web", honest, "one")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- connections.Serve(ctx, fromLoopback{l}, attest.NewOrigins(), w.server.ServePod, connections.Limits{Total: 2048, PerSource: 256}, quiet())
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return &neighbors{w, l.Addr().String()}
}

// dial connects as a pod. It returns nil if that fails.
func (n *neighbors) dial(from string) net.Conn {
	c := n.dialOnce(from)
	if c != nil {
		n.t.Cleanup(func() { _ = c.Close() })
	}
	return c
}

// works makes the honest pod request tokens, on new and on kept connections. It returns how long
// they took.
func (n *neighbors) works() (p50, p99 time.Duration) {
	n.t.Helper()
	var took []time.Duration
	request, err := http.NewRequest(http.MethodGet, "http://"+n.address+tokenQuery(arm), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	request.Header.Set("Metadata", "true")
	for range 20 {
		c := n.dial(honest)
		if c == nil {
			n.t.Fatal("the neighbor cannot connect")
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		r := bufio.NewReader(c)
		for range 5 {
			began := time.Now()
			if err := request.Write(c); err != nil {
				n.t.Fatalf("the neighbor cannot ask: %v", err)
			}
			resp, err := http.ReadResponse(r, request)
			if err != nil {
				n.t.Fatalf("the neighbor gets no answer: %v", err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				n.t.Fatalf("the neighbor gets %d %s, %v", resp.StatusCode, body, err)
			}
			_ = resp.Body.Close()
			took = append(took, time.Since(began))
		}
		_ = c.Close()
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
}

// rss returns the memory of this process in MiB.
func rss(t testing.TB) int {
	text, err := os.ReadFile("/proc/self/statm")
	var pages, resident int
	if _, scan := fmt.Sscan(string(text), &pages, &resident); err != nil || scan != nil {
		t.Fatal(err, scan)
	}
	return resident * os.Getpagesize() >> 20
}

// TestIdleConnections: one pod opens ten thousand connections and sends nothing.
func TestIdleConnections(t *testing.T) {
	n := newNeighbors(t)
	n.works()
	before := rss(t)
	open := n.fill(hostile, 10000)
	p50, p99 := n.works()
	t.Logf("10,000 connections tried, %d stay, %d MiB before and %d MiB with them; the neighbor: p50 %v, p99 %v", open(), before, rss(t), p50, p99)
	for deadline := time.Now().Add(10 * time.Second); open() > 256 && time.Now().Before(deadline); {
		n.works() // the last one that was closed may not have noticed yet
	}
	if open() > 256 {
		t.Errorf("%d connections of one pod stay, want 256 at the most", open())
	}
}

// fill opens connections, and returns a function that returns how many of them are still open.
func (n *neighbors) fill(from string, connections int) (open func() int) {
	n.t.Helper()
	var left atomic.Int64
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			for range connections / 20 {
				c := n.dial(from)
				if c == nil {
					continue
				}
				left.Add(1)
				go func() {
					_, _ = c.Read(make([]byte, 1))
					_ = c.Close()
					left.Add(-1)
				}()
			}
		})
	}
	group.Wait()
	return func() int { return int(left.Load()) }
}

// TestConspiracy: twenty pods, each within its own limit, use all connections.
func TestConspiracy(t *testing.T) {
	n := newNeighbors(t)
	var open []func() int
	for i := range 20 {
		open = append(open, n.fill(fmt.Sprintf("10.9.1.%d", i+1), 260))
	}
	p50, p99 := n.works()
	least, most, sum := 2048, 0, 0
	for _, o := range open {
		least, most, sum = min(least, o()), max(most, o()), sum+o()
	}
	t.Logf("%d connections of 20 pods stay, %d to %d of each; the neighbor: p50 %v, p99 %v", sum, least, most, p50, p99)
	if sum > 2048 || least < 75 {
		t.Errorf("%d connections of 20 pods stay, %d to %d of each; want 2048 shared out", sum, least, most)
	}
}

// TestHalfRequests: one pod opens all its connections and sends half a header on each.
func TestHalfRequests(t *testing.T) {
	n := newNeighbors(t)
	var conns []net.Conn
	for range 256 {
		if c := n.dial(hostile); c != nil {
			_, _ = io.WriteString(c, "GET /metadata/instance HTTP/1.1\r\nMetadata: true\r\nX-A")
			conns = append(conns, c)
		}
	}
	n.works()
	if testing.Short() {
		return
	}
	for _, c := range conns {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection without a whole header was kept")
		}
	}
}

// TestFloods: the neighbor is served while one pod sends without pause, whether or not it waits for
// answers.
func TestFloods(t *testing.T) {
	const head = " HTTP/1.1\r\nHost: 169.254.169.254\r\n"
	for _, tt := range []struct{ name, request, way string }{
		{"bad paths, pipelined", "GET /metadata/identity/info" + head + "\r\n", pipelined},
		{"without header", "GET " + tokenQuery(arm) + head + "\r\n", oneByOne},
		{"without label", "GET " + tokenQuery(arm) + head + "Metadata: true\r\n\r\n", oneByOne},
		{"without label, never reads", "GET " + tokenQuery(arm) + head + "Metadata: true\r\n\r\n", neverReads},
		{"instance", "GET /metadata/instance?api-version=2021-02-01" + head + "Metadata: true\r\n\r\n", pipelined},
		{"garbage", "\x16\x03\x01\x00\xff" + strings.Repeat("x", 200) + "\r\n\r\n", oneByOne},
		{"big headers", "GET /metadata/versions" + head + "X: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", oneByOne},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNeighbors(t)
			n.pod("mallory", hostile, noLabel)
			_, calm := n.works()
			stop := n.flood(tt.request, tt.way)
			p50, p99 := n.works()
			t.Logf("%d requests sent meanwhile; the neighbor: p50 %v, p99 %v, in calm %v", stop(), p50, p99, calm)
		})
	}
}

// The ways to send.
const oneByOne, pipelined, neverReads = "one by one", "pipelined", "never reads"

// TestGoodFlood: a pod that may have tokens can request them as fast as it wants.
func TestGoodFlood(t *testing.T) {
	for _, way := range []string{oneByOne, pipelined, neverReads} {
		t.Run(way, func(t *testing.T) {
			n := newNeighbors(t)
			n.assign("mallory", hostile, "two")
			_, calm := n.works()
			stop := n.flood("GET "+tokenQuery(arm)+" HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n", way)
			p50, p99 := n.works()
			t.Logf("%d requests sent meanwhile; the neighbor: p50 %v, p99 %v, in calm %v", stop(), p50, p99, calm)
		})
	}
}

// flood sends on sixty connections until stop is called, which returns how many requests were sent.
func (n *neighbors) flood(request, way string) func() int {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	counts := make([]int, 60)
	for i := range counts {
		group.Go(func() {
			for ctx.Err() == nil {
				counts[i] += n.send(ctx, request, way)
				runtime.Gosched()
			}
		})
	}
	return func() int {
		cancel()
		group.Wait()
		sum := 0
		for _, c := range counts {
			sum += c
		}
		return sum
	}
}

// send sends on one connection until it is closed, or ctx ends.
func (n *neighbors) send(ctx context.Context, request, way string) int {
	c := n.dialOnce(hostile)
	if c == nil {
		return 0
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer func() { _ = c.Close() }()
	many := []byte(strings.Repeat(request, 1+4096/len(request)))
	if way == pipelined {
		go func() { _, _ = io.Copy(io.Discard, c) }()
	}
	r := bufio.NewReader(c)
	for sent := 0; ; {
		out, count := many, len(many)/len(request)
		if way == oneByOne {
			out, count = []byte(request), 1
		}
		if _, err := c.Write(out); err != nil {
			return sent
		}
		sent += count
		if way != oneByOne {
			continue
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return sent
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return sent
		}
	}
}

func (n *neighbors) dialOnce(from string) net.Conn {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback(from), 0)), Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", n.address)
	if err != nil {
		return nil
	}
	return c
}

// TestBadRequestsSlowed: above the burst, refusals are delayed to the rate of the penalties. The
// neighbor's requests are not.
func TestBadRequestsSlowed(t *testing.T) {
	n := newNeighbors(t)
	const beyond = 30
	request := "GET /metadata/identity/info HTTP/1.1\r\nHost: x\r\n\r\n"
	c := n.dial(hostile)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	began := time.Now()
	go func() { _, _ = io.WriteString(c, strings.Repeat(request, penalty.Burst+beyond)) }()
	r := bufio.NewReader(c)
	for range penalty.Burst + beyond {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if took := time.Since(began); took < beyond*time.Second/penalty.Rate {
		t.Errorf("%d refusals took %v, want %v at least", penalty.Burst+beyond, took, beyond*time.Second/penalty.Rate)
	}
	n.works()
}
