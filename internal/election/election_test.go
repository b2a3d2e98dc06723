package election

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const duration = 6 * time.Second

// candidate is a process that competes for the Lease.
type candidate struct {
	*connection
	name    string
	stop    context.CancelFunc // SIGTERM
	leading atomic.Bool
	result  chan error // of Run
	finish  chan error // makes the function return
}

// candidates share a server. They report an error when two lead at the same time.
type candidates struct {
	t *testing.T
	*server
	leaders atomic.Int32
}

func newCandidates(t *testing.T) *candidates { return &candidates{t: t, server: &server{}} }

// start starts a candidate.
func (cs *candidates) start(name string) *candidate {
	ctx, stop := context.WithCancel(cs.t.Context())
	c := &candidate{
		connection: &connection{s: cs.server}, name: name, stop: stop,
		result: make(chan error, 1), finish: make(chan error, 1),
	}
	go func() {
		c.result <- Run(ctx, Config{
			Client: c.connection, Namespace: "default", Name: "mic", Identity: name, Duration: duration, Report: func(error) {},
		}, func(ctx context.Context) error {
			if n := cs.leaders.Add(1); n > 1 {
				cs.t.Errorf("%d leaders", n)
			}
			c.leading.Store(true)
			defer func() {
				c.leading.Store(false)
				cs.leaders.Add(-1)
			}()
			select {
			case <-ctx.Done():
				return nil
			case err := <-c.finish:
				return err
			}
		})
	}()
	return c
}

// end stops the candidate and returns what Run returned.
func (c *candidate) end() error {
	c.stop()
	return <-c.result
}

// leads returns how long it took until the candidate led.
func (cs *candidates) leads(c *candidate, limit time.Duration) time.Duration {
	cs.t.Helper()
	began := time.Now()
	for !c.leading.Load() {
		if time.Since(began) > limit {
			cs.t.Fatalf("%s does not lead within %v; %q holds the Lease", c.name, limit, cs.holder())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

// TestRelease: a leader that is stopped ends its work first and then releases the Lease. A standby
// takes over within a second.
func TestRelease(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			cs := newCandidates(t)
			first := cs.start("first")
			cs.leads(first, 0)
			second := cs.start("second")
			time.Sleep(rand.N(3 * time.Second))
			if err := first.end(); err != nil {
				t.Error(err)
			}
			cs.leads(second, time.Second)
			if err := second.end(); err != nil || cs.holder() != "" {
				t.Errorf("%v, held by %q", err, cs.holder())
			}
		})
	}
}

// TestUnreachable: a leader that cannot renew stops before the Lease expires, whether requests are
// refused or hang, and a standby leads soon after.
func TestUnreachable(t *testing.T) {
	for name, f := range map[string]faults{"refused": {cut: true}, "no response": {lost: true}, "slow": {slow: 3 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				synctest.Test(t, func(t *testing.T) {
					cs := newCandidates(t)
					first := cs.start("first")
					cs.leads(first, 0)
					second := cs.start("second")
					time.Sleep(rand.N(3 * time.Second))
					first.set(f)
					began := time.Now()
					if err := <-first.result; err == nil || time.Since(began) > duration*5/6 {
						t.Errorf("ended after %v: %v", time.Since(began), err)
					}
					synctest.Wait()
					if first.leading.Load() {
						t.Error("still leads")
					}
					cs.leads(second, duration+2*time.Second)
					first.set(faults{})
					time.Sleep(time.Minute)
					if !second.leading.Load() {
						t.Error("the process that lost the Lease wrote it again")
					}
					_ = second.end()
				})
			}
		})
	}
}

// TestStolen: a leader stops with its next renewal when another process holds the Lease, and
// leaves it alone.
func TestStolen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cs := newCandidates(t)
		c := cs.start("c")
		cs.leads(c, 0)
		cs.steal("thief")
		began := time.Now()
		if err := <-c.result; err == nil || time.Since(began) > 2*time.Second {
			t.Errorf("ended after %v: %v", time.Since(began), err)
		}
		time.Sleep(time.Minute)
		if cs.holder() != "thief" {
			t.Errorf("held by %q", cs.holder())
		}
	})
}

// TestFunctionEnds: the Lease is released when the function returns by itself.
func TestFunctionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cs := newCandidates(t)
		c := cs.start("c")
		cs.leads(c, 0)
		want := errors.New("broken")
		c.finish <- want
		if err := <-c.result; !errors.Is(err, want) || cs.holder() != "" {
			t.Errorf("%v, held by %q", err, cs.holder())
		}
	})
}

// TestRestart: a process that comes back with the same identity leads without waiting, and a
// standby that ends leaves the Lease to its holder.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cs := newCandidates(t)
		killed := cs.start("c")
		cs.leads(killed, 0)
		standby := cs.start("standby")
		killed.set(faults{cut: true})
		if err := <-killed.result; err == nil {
			t.Error("a leader that cannot renew ended without an error")
		}
		synctest.Wait()
		cs.leads(cs.start("c"), 100*time.Millisecond)
		if err := standby.end(); err != nil || cs.holder() != "c" {
			t.Errorf("%v, held by %q", err, cs.holder())
		}
		if slices.Contains(cs.writers, "standby") {
			t.Error("the standby wrote the Lease")
		}
	})
}

// TestHistories runs three candidates with random faults: two never lead at the same time, and one
// leads after the faults have ended.
func TestHistories(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { history(t, rand.New(rand.NewPCG(seed, 3))) })
		})
	}
}

func history(t *testing.T, random *rand.Rand) {
	cs := newCandidates(t)
	all := make([]*candidate, 3)
	for step := range 60 {
		i := random.IntN(len(all))
		switch c := all[i]; {
		case c == nil:
			all[i] = cs.start(strconv.Itoa(step))
		case len(c.result) > 0: // lost the Lease: the process exits
			all[i] = nil
		case random.IntN(8) == 0:
			_ = c.end()
			all[i] = nil
		default:
			c.set(faults{cut: random.IntN(4) == 0, lost: random.IntN(6) == 0, slow: time.Duration(random.Int64N(int64(3 * time.Second)))})
		}
		time.Sleep(time.Duration(random.Int64N(int64(6 * time.Second))))
	}
	for i, c := range all {
		if c == nil || len(c.result) > 0 {
			all[i] = cs.start("last" + strconv.Itoa(i))
			continue
		}
		c.set(faults{})
	}
	time.Sleep(3 * duration)
	if !slices.ContainsFunc(all, func(c *candidate) bool { return c.leading.Load() }) {
		t.Errorf("no leader; %q holds the Lease", cs.holder())
	}
	for _, c := range all {
		_ = c.end()
	}
}
