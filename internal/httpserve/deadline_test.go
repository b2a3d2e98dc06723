package httpserve

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// counted counts how often a connection's deadlines are set.
type counted struct {
	net.Conn
	sets int
}

func (c *counted) SetReadDeadline(t time.Time) error {
	c.sets++
	return c.Conn.SetReadDeadline(t)
}

func (c *counted) SetWriteDeadline(t time.Time) error {
	c.sets++
	return c.Conn.SetWriteDeadline(t)
}

// pair returns both ends of a connection.
func pair(t *testing.T) (*Conn, *counted, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	inner := &counted{Conn: ours}
	return &Conn{Conn: inner}, inner, theirs
}

// after runs a function some time later.
func after(d time.Duration, f func()) { time.AfterFunc(d, f) }

// TestReadDeadline: a Read ends at the deadline that was asked for last, whatever was asked for
// before it began and while it waits.
func TestReadDeadline(t *testing.T) {
	type ask struct{ at, deadline time.Duration } // a deadline of 0 is none, of -1 the past
	for name, tt := range map[string]struct {
		before, during []ask
		late           time.Duration // 0: a byte that arrives after a minute is read
	}{
		"none":                        {},
		"kept":                        {before: []ask{{0, 1}}, late: 1},
		"passed before":               {before: []ask{{0, -1}}, late: -1},
		"taken away before":           {before: []ask{{0, 1}, {0, 0}}},
		"later than the one before":   {before: []ask{{0, 1}, {0, 5}}, late: 5},
		"extended":                    {before: []ask{{0, 2}}, during: []ask{{1, 4}}, late: 4},
		"extended twice":              {before: []ask{{0, 2}}, during: []ask{{1, 4}, {3, 9}}, late: 9},
		"shortened":                   {before: []ask{{0, 9}}, during: []ask{{1, 4}}, late: 4},
		"set":                         {during: []ask{{1, 4}}, late: 4},
		"taken away":                  {before: []ask{{0, 2}}, during: []ask{{1, 0}}},
		"ended":                       {before: []ask{{0, 9}}, during: []ask{{3, -1}}, late: 3},
		"ended without one":           {during: []ask{{3, -1}}, late: 3},
		"extended and then shortened": {before: []ask{{0, 3}}, during: []ask{{1, 9}, {2, 3}}, late: 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _, client := pair(t)
				began := time.Now()
				set := func(a ask) {
					deadline := time.Time{}
					if a.deadline != 0 {
						deadline = began.Add(a.deadline * time.Second)
					}
					if err := c.SetReadDeadline(deadline); err != nil {
						t.Error(err)
					}
				}
				for _, a := range tt.before {
					set(a)
				}
				for _, a := range tt.during {
					after(a.at*time.Second, func() { set(a) })
				}
				after(time.Minute, func() { _, _ = client.Write([]byte("x")) })
				n, err := c.Read(make([]byte, 8))
				waited := time.Since(began)
				switch {
				case tt.late == 0 && (n != 1 || err != nil):
					t.Errorf("%d bytes, %v after %s, want the byte", n, err, waited)
				case tt.late != 0 && (!errors.Is(err, os.ErrDeadlineExceeded) || waited != max(tt.late, 0)*time.Second):
					t.Errorf("%d bytes, %v after %s, want late after %d s", n, err, waited, tt.late)
				}
			})
		})
	}
}

// TestReadAfterLate: what ends a Read does not end the next one.
func TestReadAfterLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, client := pair(t)
		after(time.Second, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }) // as net/http ends its own
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want late", err)
		}
		_ = c.SetReadDeadline(time.Time{})
		after(time.Second, func() { _, _ = client.Write([]byte("x")) })
		if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// TestResponseTime: a client that does not read has the whole time for each response, however soon
// one follows the other, and a response that is read in parts arrives whole.
func TestResponseTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, client := pair(t)
		c.responseTime = 10 * time.Second
		take := func(n int) { _, _ = client.Read(make([]byte, n)) }
		for _, pause := range []time.Duration{4, 9, 9} { // the third ends long after the first one's time
			c.beginRequest()
			after(0, func() { take(2) })
			after(pause*time.Second, func() { take(2) })
			if n, err := c.Write([]byte("four")); n != 4 || err != nil {
				t.Errorf("%d bytes, %v, want all", n, err)
			}
		}
		c.beginRequest()
		began := time.Now()
		after(0, func() { take(2) })
		n, err := c.Write([]byte("four"))
		if waited := time.Since(began); n != 2 || !errors.Is(err, os.ErrDeadlineExceeded) || waited != c.responseTime {
			t.Errorf("%d bytes, %v after %s, want 2, late after %s", n, err, waited, c.responseTime)
		}
	})
}

// TestInterimResponse: the time of a response does not begin with "100 Continue".
func TestInterimResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, client := pair(t)
		c.responseTime = 10 * time.Second
		c.beginRequest()
		go func() {
			b := make([]byte, 64)
			for {
				if _, err := client.Read(b); err != nil {
					return
				}
			}
		}()
		if _, err := c.Write([]byte(interim)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\n")); err != nil {
			t.Errorf("the response, a minute later: %v", err)
		}
	})
}

// broken fails as if it were late, whatever its deadline.
type broken struct{ net.Conn }

func (broken) Read([]byte) (int, error)  { return 0, os.ErrDeadlineExceeded }
func (broken) Write([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// TestLateForGood: a connection that fails whatever its deadline ends a Read and a Write.
func TestLateForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, inner, _ := pair(t)
		inner.Conn = broken{inner.Conn}
		for _, deadline := range []time.Time{{}, time.Now().Add(time.Minute), time.Now().Add(time.Hour), {}} {
			_ = c.SetDeadline(deadline)
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read: %v", err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("write: %v", err)
			}
		}
	})
}

// TestDeadlinesCostNothing: requests that follow one another set the connection's own deadlines
// only now and then. The calls are those of net/http for a request.
func TestDeadlinesCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, inner, client := pair(t)
		c.responseTime = 10 * time.Second
		const requests = 1000
		go func() {
			for range requests {
				_, _ = client.Write([]byte("ask"))
				_, _ = client.Read(make([]byte, 8))
			}
		}()
		for range requests {
			_ = c.SetReadDeadline(time.Now().Add(time.Minute)) // for the next request
			if _, err := c.Read(make([]byte, 8)); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Time{})
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second)) // for the header
			_ = c.SetReadDeadline(time.Time{})
			c.beginRequest()
			if _, err := c.Write([]byte("answer")); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Unix(1, 0)) // ends the read that waits for the client to leave
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Time{})
		}
		if inner.sets > 2 {
			t.Errorf("set %d times for %d requests", inner.sets, requests)
		}
	})
}
