// The program in a pod that sends load: it runs package load and prints what it measured.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/test/bench/load"
)

// round is one output line: the result of one target in one period.
type round struct {
	Target   string    `json:"target"`
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"`
	Requests int       `json:"requests"`
	// Failed counts the requests whose status was not 200. Text describes the first of them.
	Failed int    `json:"failed"`
	Text   string `json:"text,omitempty"`
	// P50 … Max are quantiles of the response time in microseconds, in steps of 10.
	P50 int `json:"p50"`
	P99 int `json:"p99"`
	Max int `json:"max"`
	// CPU is the CPU time of the load generator itself, in seconds.
	CPU float64 `json:"cpu"`
}

// loads sends to the targets, name=address each, in turn. BENCH_CONNECTIONS, BENCH_SECONDS (of a
// period) and BENCH_ROUNDS set the amount. Each target first gets a warm-up second.
func loads(ctx context.Context, targets []string, out io.Writer) error {
	connections, err1 := number("BENCH_CONNECTIONS", 1, 4096)
	seconds, err2 := number("BENCH_SECONDS", 1, 60)
	rounds, err3 := number("BENCH_ROUNDS", 1, 20)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	runtime.LockOSThread()
	for i := range rounds + 1 {
		for _, t := range targets {
			name, address, _ := strings.Cut(t, "=")
			length := time.Duration(seconds) * time.Second
			if i == 0 {
				length = time.Second
			}
			r, err := stretch(ctx, address, connections, length)
			if err != nil {
				return fmt.Errorf("send to %s (%s): %w", name, address, err)
			}
			if r.Target = name; i == 0 {
				r.Target = "warm-up"
			}
			if err := writeJSON(out, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func number(name string, least, most int) (int, error) {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s=%q: use a number from %d to %d", name, os.Getenv(name), least, most)
	}
	return n, nil
}

// client is one keep-alive connection with one request in flight.
type client struct {
	fd   int
	sent time.Time
	got  int // bytes of the response in buffer
	in   [16 << 10]byte
}

// steps is the number of latency buckets of 10 µs; the last one also counts longer latencies.
const steps = 100_000

// generator runs one period.
type generator struct {
	epoll   int
	request []byte
	clients []*client
	took    [steps]int
	result  round
}

func stretch(ctx context.Context, address string, connections int, length time.Duration) (round, error) {
	target, err := netip.ParseAddrPort(address)
	if err != nil || !target.Addr().Is4() {
		return round{}, fmt.Errorf("%q is no IPv4 address with a port", address)
	}
	g := &generator{request: request(target.Addr().String(), os.Getenv("BENCH_RESOURCE"), "")}
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return round{}, fmt.Errorf("epoll: %w", err)
	}
	defer g.close()
	for range connections {
		if err := g.connect(target); err != nil {
			return round{}, err
		}
	}
	return g.run(ctx, length)
}

func (g *generator) close() {
	for _, c := range g.clients {
		_ = unix.Close(c.fd)
	}
	_ = unix.Close(g.epoll)
}

func (g *generator) connect(to netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c := &client{fd: fd}
	g.clients = append(g.clients, c)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("set non-blocking: %w", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(len(g.clients) - 1)} //nolint:gosec // bounded by BENCH_CONNECTIONS
	if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// run keeps one request in flight on every connection until the time is over.
func (g *generator) run(ctx context.Context, length time.Duration) (round, error) {
	used := cpu()
	g.result.Began = time.Now()
	end := g.result.Began.Add(length)
	for _, c := range g.clients {
		if err := g.send(c); err != nil {
			return round{}, err
		}
	}
	events := make([]unix.EpollEvent, len(g.clients))
	for now := g.result.Began; now.Before(end) && ctx.Err() == nil; now = time.Now() {
		n, err := unix.EpollWait(g.epoll, events, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return round{}, fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if err := g.receive(g.clients[e.Fd]); err != nil {
				return round{}, err
			}
		}
	}
	g.result.Ended = time.Now()
	g.result.CPU = cpu() - used
	g.result.P50, g.result.P99, g.result.Max = g.quantile(0.5), g.quantile(0.99), g.quantile(1)
	return g.result, ctx.Err()
}

func (g *generator) send(c *client) error {
	c.got, c.sent = 0, time.Now()
	n, err := unix.Write(c.fd, g.request)
	if err != nil || n != len(g.request) { // an empty socket takes 300 bytes at once
		return fmt.Errorf("send a request: %d of %d bytes: %w", n, len(g.request), err)
	}
	return nil
}

func (g *generator) receive(c *client) error {
	n, err := unix.Read(c.fd, c.in[c.got:])
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return fmt.Errorf("read an answer: %w", err)
	case n == 0:
		return errors.New("the server closed a connection, or its answer is too long")
	}
	c.got += n
	size, code, err := load.Complete(c.in[:c.got])
	if err != nil || size == 0 {
		return err
	}
	g.took[min(int(time.Since(c.sent)/(10*time.Microsecond)), steps-1)]++
	g.result.Requests++
	if code != 200 {
		g.result.Failed++
		if g.result.Text == "" {
			g.result.Text = fmt.Sprintf("%.300s", c.in[:c.got])
		}
	}
	return g.send(c)
}

// quantile returns the latency, in microseconds, that this share of the requests did not exceed.
func (g *generator) quantile(part float64) int {
	left := int(part * float64(g.result.Requests))
	for i, n := range g.took {
		if left -= n; left <= 0 && n > 0 {
			return (i + 1) * 10
		}
	}
	return 0
}

// cpu returns this process's CPU time in seconds.
func cpu() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
