package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/testnet"
)

// load is a pod that requests tokens without pause. A connection that is refused, reset or closed
// without an answer is a failure. Nothing is retried. A connection is closed when an answer says
// so.
type load struct {
	n    *node
	stop chan struct{}
	done sync.WaitGroup

	mu                sync.Mutex
	answers, failures int
	connections       int
	first             []string // of the failures
}

// Each kept connection sends 25 requests a second, each of the others 10: 500 requests a second in
// all.
const keptConnections, newConnections = 16, 10

// slowVariable makes the load a tenth. It is for virtual machines without KVM (make test-kernels):
// the whole one takes all their processors, so that agents run into the time limits of a handover.
const slowVariable = "PODID_TEST_SLOW"

// startLoad starts the load. It stops at the end of the test, if not before.
func (n *node) startLoad(from *testnet.Net) *load {
	l, second := &load{n: n, stop: make(chan struct{})}, time.Second
	if os.Getenv(slowVariable) != "" {
		second *= 10
	}
	for range keptConnections {
		l.done.Go(func() { l.client(from, second/25, true) })
	}
	for range newConnections {
		l.done.Go(func() { l.client(from, second/10, false) })
	}
	n.t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.mu.Lock()
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.mu.Unlock()
	l.done.Wait()
}

// check stops the load and fails the test if a request failed.
func (l *load) check(t *testing.T) {
	t.Helper()
	l.end()
	t.Logf("%d answers over %d connections", l.answers, l.connections)
	if l.failures > 0 || l.answers == 0 {
		t.Errorf("%d of %d requests failed: %v", l.failures, l.failures+l.answers, l.first)
	}
}

func (l *load) client(from *testnet.Net, every time.Duration, keep bool) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var c *client
	for {
		select {
		case <-tick.C:
		case <-l.stop:
			if c != nil {
				c.close()
			}
			return
		}
		var err error
		if c == nil {
			if c, err = dialClient(from); err != nil {
				l.note(err, true)
				continue
			}
			l.note(nil, true)
		}
		again, err := c.ask(keep)
		l.note(err, false)
		if err != nil || !again {
			c.close()
			c = nil
		}
	}
}

func (l *load) note(err error, dialed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.failures++
		if len(l.first) < 5 {
			l.first = append(l.first, time.Now().Format("15:04:05.000 ")+err.Error())
		}
	case dialed:
		l.connections++
	default:
		l.answers++
	}
}

// client is one connection.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	used int
}

func dialClient(from *testnet.Net) (*client, error) {
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", "169.254.169.254:80", atMost)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &client{conn: conn, in: bufio.NewReader(conn)}, nil
}

func (c *client) close() { _ = c.conn.Close() }

// ask requests a token, and reports whether the connection may be used again.
func (c *client) ask(keep bool) (again bool, err error) {
	c.used++
	header := ""
	if !keep {
		header = "Connection: close\r\n"
	}
	if err := c.conn.SetDeadline(time.Now().Add(atMost)); err != nil {
		return false, err
	}
	if _, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n%s\r\n", tokenURL, header); err != nil {
		return false, fmt.Errorf("request %d of its connection: %w", c.used, err)
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return false, fmt.Errorf("answer %d of its connection: %w", c.used, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("answer %d of its connection: %s %s %w", c.used, resp.Status, body, err)
	}
	return keep && !resp.Close, nil
}
