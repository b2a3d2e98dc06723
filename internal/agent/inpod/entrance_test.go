package inpod

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/testr"
	"golang.org/x/sys/unix"

	"github.com/podid-io/podid/internal/agent/hostpods"
)

// door is a listener whose connections the test makes.
type door struct {
	results chan any // a net.Conn or an error
	closed  chan struct{}
	accepts atomic.Int32
}

func newDoor() *door {
	return &door{results: make(chan any, 10), closed: make(chan struct{})}
}

func (d *door) Accept() (net.Conn, error) {
	d.accepts.Add(1)
	select {
	case r := <-d.results:
		if err, failed := r.(error); failed {
			return nil, err
		}
		return r.(net.Conn), nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error   { close(d.closed); return nil }
func (d *door) Addr() net.Addr { return &net.TCPAddr{} }

// connect adds a connection.
func (d *door) connect() {
	ours, _ := net.Pipe()
	d.results <- ours
}

type noDiag struct{}

func (noDiag) Group(netip.AddrPort, netip.AddrPort) (uint64, error) { return 7, nil }
func (noDiag) Close() error                                         { return nil }

// seven knows one control group.
type seven struct{}

func (seven) Lookup(_ context.Context, group uint64) (string, error) {
	return fmt.Sprint("pod of group ", group), nil
}

// opened returns a listener with one entrance.
func opened(t *testing.T, slots int) (*Listener, *entrance, *door) {
	d := newDoor()
	e := &entrance{
		name: "pod", cookie: 1, listener: d, diag: noDiag{}, slots: make(chan struct{}, slots),
		done: make(chan struct{}), accepts: make(chan struct{}),
	}
	l := New("", slots, seven{}, hostpods.NewSet(), testr.New(t))
	l.entrances[1] = []*entrance{e}
	go l.accept(e)
	return l, e, d
}

func accepted(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.(*Conn).Pod; got != "pod of group 7" {
		t.Errorf("group %q, want 7", got)
	}
	return c
}

// TestAcceptErrors: connections are accepted again when the agent may open files again.
func TestAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, d := opened(t, 1) // an attempt that fails uses no slot
		for range 10 {
			d.results <- &net.OpError{Op: "accept", Err: unix.EMFILE}
		}
		d.connect()
		start := time.Now()
		_ = accepted(t, l).Close()
		if waited := time.Since(start); waited < 3*maxAcceptPause {
			t.Errorf("tried 10 times in %s: the pauses do not grow", waited)
		}
		l.end()
	})
}

// TestSlots: more connections than a namespace may have are not accepted before others are closed.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, d := opened(t, 2)
		for range 3 {
			d.connect()
		}
		first, second := accepted(t, l), accepted(t, l)
		synctest.Wait()
		if n := d.accepts.Load(); n != 2 {
			t.Errorf("%d calls of accept, want 2", n)
		}
		_ = first.Close()
		_ = first.Close() // frees one slot, not two
		third := accepted(t, l)
		synctest.Wait()
		if n := d.accepts.Load(); n != 3 {
			t.Errorf("%d calls of accept after a connection was closed, want 3", n)
		}
		_, _ = second.Close(), third.Close()
		l.end()
	})
}

// TestEndBlocked: a namespace ends although its connection is not taken, or it may have no more.
func TestEndBlocked(t *testing.T) {
	for name, taken := range map[string]bool{"not taken": false, "no more": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, e, d := opened(t, 1)
				d.connect()
				if taken {
					defer func(c net.Conn) { _ = c.Close() }(accepted(t, l))
				}
				synctest.Wait()
				l.remove(e.cookie)
				if len(l.entrances) > 0 {
					t.Error("the namespace is still there")
				}
			})
		})
	}
}
