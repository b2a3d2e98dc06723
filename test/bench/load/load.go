// Package load sends HTTP requests and measures response times. It uses one thread, raw sockets and
// epoll, because it shares the machine with the measured program.
//
// A closed loop keeps a request in flight on each connection and finds a server's maximum. An open
// loop sends at a rate independent of the server. A request's time counts from when it was due, so
// that a server that stalls is charged for all requests due meanwhile.
package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Spec describes what to send, from the calling thread's network namespace.
type Spec struct {
	Target netip.AddrPort `json:"target"`
	// Request is one complete request.
	Request string `json:"request"`
	// Connections is the number of concurrent connections; the i-th comes from Sources[i %
	// len(Sources)].
	Connections int          `json:"connections"`
	Sources     []netip.Addr `json:"sources"`
	// Fresh opens a new connection for every request.
	Fresh bool `json:"fresh,omitempty"`
	// Rate, in requests per second, selects an open loop; 0 selects a closed one.
	Rate float64 `json:"rate,omitempty"`
	// Requests is the number of requests to send; 0 means to stop after Length.
	Requests int           `json:"requests,omitempty"`
	Length   time.Duration `json:"length"`
}

// Result is the outcome of a run.
type Result struct {
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// Requests counts the requests sent, and Failed those whose status was not 200. Text describes the
	// first failure.
	Requests int    `json:"requests"`
	Failed   int    `json:"failed"`
	Text     string `json:"text,omitempty"`
	// Again counts the requests sent a second time because the server closed a used connection before
	// the first byte of a response. Every HTTP client does that: a server may close an idle connection
	// just when a request is sent.
	Again int `json:"again"`
	// Body is the body of the first response.
	Body string `json:"body,omitempty"`
	// P50 … Max are the quantiles of all response times, in seconds.
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
	// MaxAt is when the slowest response arrived, in seconds from the start.
	MaxAt float64 `json:"maxAt"`
	// CPU is the CPU time of the load generator itself, in seconds.
	CPU float64 `json:"cpu"`
}

// Rate returns the requests per second.
func (r Result) Rate() float64 { return float64(r.Requests) / r.Ended.Sub(r.Began).Seconds() }

const (
	// answerTime is how long to wait for responses after the last request.
	answerTime = 5 * time.Second
	// maxFailures ends a closed loop, which would otherwise fail faster and faster.
	maxFailures = 1000
	maxClients  = 4096
)

// Run sends until the time is over, and waits for the last responses.
func Run(ctx context.Context, s Spec) (Result, error) {
	if s.Connections < 1 || s.Connections > maxClients || len(s.Sources) == 0 || !s.Target.Addr().Is4() {
		return Result{}, fmt.Errorf("load: %d connections from %d addresses to %s: use 1 to %d, some and an IPv4 address",
			s.Connections, len(s.Sources), s.Target, maxClients)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	g := &generator{spec: s, request: []byte(s.Request), timer: -1}
	if err := g.open(); err != nil {
		return Result{}, errors.Join(err, g.close())
	}
	err := g.run(ctx)
	return g.result, errors.Join(err, g.close())
}

// generator is one run.
type generator struct {
	spec         Spec
	request      []byte
	epoll, timer int
	clients      []*client
	idle         []*client // first in, first out
	sent         int
	due          time.Time // of the next request of an open loop
	times        histogram
	result       Result
}

func (g *generator) open() (err error) {
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("load: epoll: %w", err)
	}
	if g.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("load: timer: %w", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: -1}
	if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, g.timer, &event); err != nil {
		return fmt.Errorf("load: epoll: %w", err)
	}
	for i := range g.spec.Connections {
		c := &client{index: int32(i), fd: -1, source: g.spec.Sources[i%len(g.spec.Sources)]}
		g.clients = append(g.clients, c)
		g.idle = append(g.idle, c)
	}
	return nil
}

func (g *generator) close() error {
	for _, c := range g.clients {
		c.close()
	}
	err := unix.Close(g.epoll)
	if g.timer >= 0 {
		err = errors.Join(err, unix.Close(g.timer))
	}
	return err
}

func (g *generator) run(ctx context.Context) error {
	used := cpu()
	began := time.Now()
	g.result.Began, g.due = began, began
	end := began.Add(g.spec.Length)
	events := make([]unix.EpollEvent, 256)
	for now := began; ; now = time.Now() {
		over := now.After(end) || ctx.Err() != nil || g.enough()
		if over && (len(g.idle) == len(g.clients) || now.After(end.Add(answerTime))) {
			break
		}
		if !over {
			if err := g.start(now); err != nil {
				return err
			}
		}
		if err := g.poll(events); err != nil {
			return err
		}
	}
	g.result.Ended = time.Now()
	if late := len(g.clients) - len(g.idle); late > 0 {
		g.result.Failed += late
		g.note("no answer")
	}
	g.result.CPU = cpu() - used
	g.result.Requests = g.sent
	g.result.P50, g.result.P99, g.result.P999, g.result.Max = g.times.quantile(0.5), g.times.quantile(0.99), g.times.quantile(0.999), g.times.max.Seconds()
	return ctx.Err()
}

// poll waits for events of the connections and handles them.
func (g *generator) poll(events []unix.EpollEvent) error {
	n, err := unix.EpollWait(g.epoll, events, 100)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("load: epoll: %w", err)
	}
	for _, e := range events[:max(n, 0)] {
		if e.Fd >= 0 {
			g.event(g.clients[e.Fd])
		}
	}
	return nil
}

// enough reports whether all requests were sent, regardless of the time.
func (g *generator) enough() bool {
	return g.spec.Requests > 0 && g.sent >= g.spec.Requests || g.spec.Rate == 0 && g.result.Failed >= maxFailures
}

// start sends the requests that are due while there are idle connections.
func (g *generator) start(now time.Time) error {
	for len(g.idle) > 0 && (g.spec.Requests == 0 || g.sent < g.spec.Requests) {
		since := now
		if g.spec.Rate > 0 {
			if g.due.After(now) {
				return g.wakeAt(g.due.Sub(now))
			}
			since = g.due
			g.due = g.due.Add(time.Duration(float64(time.Second) / g.spec.Rate))
		}
		c := g.idle[0]
		g.idle = append(g.idle[:0], g.idle[1:]...)
		g.sent++
		c.since, c.again = since, false
		g.send(c)
		if g.spec.Rate == 0 {
			now = time.Now()
		}
	}
	return nil
}

func (g *generator) wakeAt(in time.Duration) error {
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(max(in.Nanoseconds(), 1))}
	if err := unix.TimerfdSettime(g.timer, 0, &at, nil); err != nil {
		return fmt.Errorf("load: timer: %w", err)
	}
	return nil
}

// send sends a client's request, over a new connection if it has none.
func (g *generator) send(c *client) {
	c.got, c.busy = 0, true
	var err error
	if c.fd < 0 {
		c.used = false
		err = c.connect(g.epoll, g.spec.Target) // the next event reports that it is writable
	} else {
		err = c.write(g.request)
	}
	if err != nil {
		g.failed(c, err)
	}
}

// sendFirst sends the request over a connection that has just been made.
func (g *generator) sendFirst(c *client) error {
	if !c.connecting {
		return nil
	}
	c.connecting = false
	if err := c.connected(); err != nil {
		return err
	}
	return c.write(g.request)
}

// event handles a connection that is ready to be read or written.
func (g *generator) event(c *client) {
	if c.fd < 0 {
		return // closed by an earlier event of the same round
	}
	if err := g.sendFirst(c); err != nil {
		g.failed(c, err)
		return
	}
	n, err := unix.Read(c.fd, c.in[c.got:])
	switch {
	case errors.Is(err, unix.EAGAIN):
		return
	case err != nil:
		err = fmt.Errorf("read an answer: %w", err)
	case n == 0:
		err = errors.New("the server closed the connection, or its answer is too long")
	}
	if !c.busy { // the server closed an idle connection
		c.close()
		return
	}
	if err == nil {
		c.got += n
		var size, code int
		if size, code, err = Complete(c.in[:c.got]); err == nil && size > 0 {
			g.answered(c, size, code)
			return
		}
	}
	if err != nil {
		g.failed(c, err)
	}
}

func (g *generator) answered(c *client, size, code int) {
	now := time.Now()
	if took := now.Sub(c.since); g.times.add(took) {
		g.result.MaxAt = now.Sub(g.result.Began).Seconds()
	}
	if code != 200 {
		g.result.Failed++
		g.note(string(c.in[:c.got]))
	}
	if g.result.Body == "" {
		g.result.Body = body(c.in[:size])
	}
	c.used, c.busy = true, false
	if g.spec.Fresh {
		c.close()
	}
	g.idle = append(g.idle, c)
}

// failed handles a connection that broke during a request.
func (g *generator) failed(c *client, err error) {
	c.close()
	if c.used && !c.again && c.got == 0 {
		c.again = true
		g.result.Again++
		g.send(c)
		return
	}
	g.result.Failed++
	g.note(err.Error())
	c.busy = false
	g.idle = append(g.idle, c)
}

func (g *generator) note(text string) {
	if g.result.Text == "" {
		g.result.Text = fmt.Sprintf("%.400s", text)
	}
}

// cpu returns this process's CPU time in seconds.
func cpu() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
