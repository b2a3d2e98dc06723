// When the loop checks, with a clock of its own; and what announcements and comments are made of.

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

// world stands in for the kernel and for whoever listens to the loop's states.
type world struct {
	began  time.Time
	checks []time.Duration // when, since the loop began
	states []error
	result func(n int) (outcome, error) // of the nth check, from 1
	seen   chan struct{}
	deaf   error // why changes cannot be announced
	live   int   // watches not stopped
}

// observe runs the loop for a time and returns.
func (w *world) observe(t *testing.T, interval, during time.Duration, meanwhile func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.began, w.seen = time.Now(), make(chan struct{}, 1)
	l := loop{
		interval: interval, log: logr.Discard(),
		check: func(context.Context) (outcome, error) {
			w.checks = append(w.checks, time.Since(w.began))
			if w.result == nil {
				return outcome{}, nil
			}
			return w.result(len(w.checks))
		},
		watch: func() (*changes, error) {
			if w.deaf != nil {
				return nil, w.deaf
			}
			w.live++
			return &changes{seen: w.seen, ended: make(chan struct{}), stop: func() { w.live-- }}, nil
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
	if w.live != 0 {
		t.Errorf("%d watches left behind", w.live)
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
		w.observe(t, time.Minute, 50*time.Second, func() { <-time.After(7 * time.Second); w.seen <- struct{}{} })
		w.wantChecks(t, 0, 7*time.Second)
	})
}

func TestLoopNoise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a change every millisecond for a second
		w := &world{}
		w.observe(t, time.Minute, time.Second, func() {
			c := &changes{seen: w.seen}
			for range 999 {
				<-time.After(time.Millisecond)
				c.tell()
			}
		})
		if got, limit := len(w.checks), changeBurst+int(time.Second/changeGap); got > limit || got < changeBurst {
			t.Errorf("%d checks, want %d to %d", got, changeBurst, limit)
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

func TestLoopBackoffEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{result: func(int) (outcome, error) { return outcome{}, errors.New("broken") }}
		w.observe(t, time.Hour, 10*time.Minute, nil)
		n := len(w.checks)
		if gap := w.checks[n-1] - w.checks[n-2]; gap != lastRetry {
			t.Errorf("the last attempts are %v apart, want %v", gap, lastRetry)
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

func TestLoopDeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // without announcements the interval still holds
		w := &world{deaf: errors.New("not permitted")}
		w.observe(t, time.Minute, 150*time.Second, nil)
		w.wantChecks(t, 0, time.Minute, 2*time.Minute)
	})
}

func TestLoopQuietEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // an attempt that ctx cut short is not a state
		ctx, cancel := context.WithCancel(t.Context())
		states := 0
		l := loop{
			interval: time.Minute, log: logr.Discard(),
			check:   func(context.Context) (outcome, error) { cancel(); return outcome{}, ctx.Err() },
			watch:   func() (*changes, error) { return nil, errors.New("not permitted") },
			onState: func(error) { states++ },
		}
		l.run(ctx)
		if states != 0 {
			t.Errorf("%d states", states)
		}
	})
}

// announcement is an nftables message with one attribute.
func announcement(subsystem, attribute uint16, value string) *syscall.NetlinkMessage {
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
		{"ours", announcement(unix.NFNL_SUBSYS_NFTABLES, unix.NFTA_TABLE_NAME, "podid\x00"), true},
		{"longer name", announcement(unix.NFNL_SUBSYS_NFTABLES, unix.NFTA_TABLE_NAME, "podid2\x00"), false},
		{"another attribute", announcement(unix.NFNL_SUBSYS_NFTABLES, 7, "podid\x00"), false},
		{"another subsystem", announcement(unix.NFNL_SUBSYS_CTNETLINK, unix.NFTA_TABLE_NAME, "podid\x00"), false},
		{"empty", &syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NFNL_SUBSYS_NFTABLES << 8}}, false},
	} {
		if got := concernsTable(tt.message, "podid"); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

func FuzzConcernsTable(f *testing.F) {
	f.Add(announcement(unix.NFNL_SUBSYS_NFTABLES, unix.NFTA_TABLE_NAME, "podid\x00").Data)
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
		if g, handover, ok := parseComment(commentOf(data)); ok && g.comment(handover) == "" {
			t.Error("a generation without a comment")
		}
	})
}

func TestGenerationComment(t *testing.T) {
	for _, g := range []generation{0, 1, 1 << 63} {
		for _, word := range []string{"", "0123abc"} {
			if got, handover, ok := parseComment(g.comment(word)); !ok || got != g || handover != word {
				t.Errorf("%d, %q became %d, %q, %v", g, word, got, handover, ok)
			}
		}
	}
	for _, bad := range []string{"", "podid generation ", "podid generation -1", "podid generation x", "generation 1"} {
		if g, _, ok := parseComment(bad); ok {
			t.Errorf("%q is %d", bad, g)
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
