// When the loop checks, with a fake clock, and how notifications and comments are parsed.

package redirect

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// world replaces the kernel, and records the loop's checks and states.
type world struct {
	began        time.Time
	checks       []time.Duration // when, since the loop began
	states       []error
	result       func(n int) (outcome, error) // of the nth check, from 1
	changed      chan struct{}
	subscribeErr error
	subscribed   int // subscriptions that are not stopped
}

// observe runs the loop for the duration.
func (w *world) observe(t *testing.T, interval, during time.Duration, meanwhile func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.began, w.changed = time.Now(), make(chan struct{}, 1)
	l := loop{
		interval: interval, log: logr.Discard(),
		check: func(context.Context) (outcome, error) {
			w.checks = append(w.checks, time.Since(w.began))
			if w.result == nil {
				return outcome{}, nil
			}
			return w.result(len(w.checks))
		},
		subscribe: func() (*subscription, error) {
			if w.subscribeErr != nil {
				return nil, w.subscribeErr
			}
			w.subscribed++
			return &subscription{changed: w.changed, ended: make(chan struct{}), stop: func() { w.subscribed-- }}, nil
		},
		onState: func(err error) { w.states = append(w.states, err) },
	}
	var done sync.WaitGroup
	done.Go(func() { l.run(ctx) })
	if meanwhile != nil {
		done.Go(meanwhile)
	}
	<-time.After(during)
	cancel()
	done.Wait()
	if w.subscribed != 0 {
		t.Errorf("%d subscriptions were not stopped", w.subscribed)
	}
}

func (w *world) wantChecks(t *testing.T, want ...time.Duration) {
	t.Helper()
	if d := cmp.Diff(want, w.checks); d != "" {
		t.Errorf("times of checks (-want +got):\n%s", d)
	}
}

func TestLoopInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.observe(t, time.Minute, 150*time.Second, nil)
		w.wantChecks(t, 0, time.Minute, 2*time.Minute)
		if len(w.states) != 3 {
			t.Errorf("%d states, want one per check", len(w.states))
		}
	})
}

func TestLoopChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.observe(t, time.Minute, 50*time.Second, func() { <-time.After(7 * time.Second); w.changed <- struct{}{} })
		w.wantChecks(t, 0, 7*time.Second)
	})
}

func TestLoopNoise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a change every millisecond for a second
		w := &world{}
		w.observe(t, time.Minute, time.Second, func() {
			s := &subscription{changed: w.changed}
			for range 999 {
				<-time.After(time.Millisecond)
				s.notify()
			}
		})
		if got, limit := len(w.checks), checkBurst+int(time.Second/minCheckInterval); got > limit || got < checkBurst {
			t.Errorf("%d checks, want %d to %d", got, checkBurst, limit)
		}
	})
}

func TestLoopBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		w := &world{result: func(n int) (outcome, error) {
			if n <= 4 {
				return outcome{}, broken
			}
			return outcome{repaired: []string{"table"}}, nil
		}}
		w.observe(t, time.Minute, 30*time.Second, nil)
		ms := time.Millisecond
		w.wantChecks(t, 0, 100*ms, 300*ms, 700*ms, 1500*ms)
		if d := cmp.Diff([]bool{true, true, true, true, false}, failed(w.states)); d != "" {
			t.Errorf("states (-want +got):\n%s", d)
		}
	})
}

func failed(states []error) (out []bool) {
	for _, s := range states {
		out = append(out, s != nil)
	}
	return out
}

func TestLoopMaxBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{result: func(int) (outcome, error) { return outcome{}, errors.New("broken") }}
		w.observe(t, time.Hour, 10*time.Minute, nil)
		n := len(w.checks)
		if gap := w.checks[n-1] - w.checks[n-2]; gap != maxBackoff {
			t.Errorf("the last attempts are %v apart, want %v", gap, maxBackoff)
		}
	})
}

func TestLoopSuperseded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{result: func(n int) (outcome, error) { return outcome{superseded: n <= 2}, nil }}
		w.observe(t, time.Minute, 50*time.Second, nil)
		w.wantChecks(t, 0, 2*time.Second, 4*time.Second)
	})
}

func TestLoopUnsubscribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // without notifications it checks at the interval
		w := &world{subscribeErr: errors.New("not permitted")}
		w.observe(t, time.Minute, 150*time.Second, nil)
		w.wantChecks(t, 0, time.Minute, 2*time.Minute)
	})
}

func TestLoopCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a check that the end of ctx interrupted is not reported
		ctx, cancel := context.WithCancel(t.Context())
		states := 0
		l := loop{
			interval: time.Minute, log: logr.Discard(),
			check:     func(context.Context) (outcome, error) { cancel(); return outcome{}, ctx.Err() },
			subscribe: func() (*subscription, error) { return nil, errors.New("not permitted") },
			onState:   func(error) { states++ },
		}
		l.run(ctx)
		if states != 0 {
			t.Errorf("%d states", states)
		}
	})
}

// notification returns an nftables message with one attribute.
func notification(subsystem, attribute uint16, value string) *syscall.NetlinkMessage {
	data := []byte{unix.NFPROTO_IPV4, 0, 0, 0}
	data = binary.NativeEndian.AppendUint16(data, uint16(attributeHeader+len(value)))
	data = binary.NativeEndian.AppendUint16(data, attribute)
	m := &syscall.NetlinkMessage{Data: append(data, value...)}
	m.Header.Type = subsystem << 8
	return m
}

func TestConcernsTable(t *testing.T) {
	for _, tt := range []struct {
		name    string
		message *syscall.NetlinkMessage
		want    bool
	}{
		{"the table", notification(unix.NFNL_SUBSYS_NFTABLES, unix.NFTA_TABLE_NAME, "podid\x00"), true},
		{"longer name", notification(unix.NFNL_SUBSYS_NFTABLES, unix.NFTA_TABLE_NAME, "podid2\x00"), false},
		{"another attribute", notification(unix.NFNL_SUBSYS_NFTABLES, 7, "podid\x00"), false},
		{"another subsystem", notification(unix.NFNL_SUBSYS_CTNETLINK, unix.NFTA_TABLE_NAME, "podid\x00"), false},
		{"empty", &syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NFNL_SUBSYS_NFTABLES << 8}}, false},
	} {
		if got := concernsTable(tt.message, "podid"); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

func FuzzConcernsTable(f *testing.F) {
	f.Add(notification(unix.NFNL_SUBSYS_NFTABLES, unix.NFTA_TABLE_NAME, "podid\x00").Data)
	f.Add([]byte{2, 0, 0, 0, 5, 0, 9, 0, 1, 0, 0, 0, 10, 0, 1, 0, 'p', 'o', 'd', 'i', 'd', 0})
	f.Fuzz(func(_ *testing.T, data []byte) {
		m := &syscall.NetlinkMessage{Data: data}
		m.Header.Type = unix.NFNL_SUBSYS_NFTABLES << 8
		concernsTable(m, "podid")
	})
}

func TestCommentOf(t *testing.T) {
	for _, tt := range []struct{ name, data, want string }{
		{"comment", "\x00\x03hi\x00", "hi"},
		{"after something else", "\x01\x02xx\x00\x03hi\x00", "hi"},
		{"not ended by zero", "\x00\x02hi", "hi"},
		{"none", "", ""},
		{"too short", "\x00\x09hi", ""},
		{"cut off", "\x00", ""},
	} {
		if got := commentOf([]byte(tt.data)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func FuzzCommentOf(f *testing.F) {
	f.Add([]byte("\x00\x03hi\x00"))
	f.Add([]byte("\x01\x02xx\x00\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if g, secret, ok := parseComment(commentOf(data)); ok && g.comment(secret) == "" {
			t.Error("a generation without a comment")
		}
	})
}

func TestGenerationComment(t *testing.T) {
	for _, g := range []generation{0, 1, 1 << 63} {
		for _, secret := range []string{"", "0123abc"} {
			if got, read, ok := parseComment(g.comment(secret)); !ok || got != g || read != secret {
				t.Errorf("%d, %q became %d, %q, %v", g, secret, got, read, ok)
			}
		}
	}
	for _, bad := range []string{"", "podid generation ", "podid generation -1", "podid generation x", "generation 1"} {
		if g, _, ok := parseComment(bad); ok {
			t.Errorf("%q was parsed as %d", bad, g)
		}
	}
	before, err := currentGeneration()
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := currentGeneration(); after <= before {
		t.Errorf("generation %d after %d", after, before)
	}
}
