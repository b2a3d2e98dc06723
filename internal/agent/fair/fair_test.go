package fair

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func config() Config {
	return Config{Rate: 10, Burst: 5, Concurrent: 5, PerCaller: 2, Waiting: 100, WaitingPerCaller: 10}
}

// pass lets time go by; in a synctest bubble that takes none.
func pass(d time.Duration) {
	if d > 0 { // Go 1.26 with the race detector crashes on a channel timer of a bubble that is due at once
		<-time.After(d)
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(config())
		began := time.Now()
		for i := range 25 {
			release, err := l.Acquire(t.Context(), fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			release()
		}
		// Five at once, then ten a second.
		if took := time.Since(began).Round(time.Millisecond); took != 2*time.Second {
			t.Errorf("25 operations took %v, want 2s", took)
		}
	})
}

func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(config())
		var mu sync.Mutex
		active, most := 0, 0
		perCaller, mostPerCaller := map[string]int{}, 0
		var group sync.WaitGroup
		for i := range 40 {
			name := fmt.Sprint(i % 4)
			group.Go(func() {
				release, err := l.Acquire(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				defer release()
				mu.Lock()
				active++
				perCaller[name]++
				most, mostPerCaller = max(most, active), max(mostPerCaller, perCaller[name])
				mu.Unlock()
				pass(time.Second)
				mu.Lock()
				active--
				perCaller[name]--
				mu.Unlock()
			})
		}
		group.Wait()
		if most != 5 || mostPerCaller != 2 {
			t.Errorf("%d at once, %d of one caller; want 5 and 2", most, mostPerCaller)
		}
		if len(l.callers)+len(l.turns)+l.waiting+l.active != 0 {
			t.Errorf("left over: %+v", l)
		}
	})
}

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.Concurrent, cfg.Rate = 1, 1000
		l := New(cfg)
		first, err := l.Acquire(t.Context(), "greedy")
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		var group sync.WaitGroup
		wait := func(name string) {
			group.Go(func() {
				release, err := l.Acquire(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				release()
			})
			synctest.Wait()
		}
		for range 5 {
			wait("greedy")
		}
		wait("modest")
		wait("other")
		first()
		group.Wait()
		if got := fmt.Sprint(order); got != "[greedy modest other greedy greedy greedy greedy]" {
			t.Errorf("order %v", got)
		}
	})
}

func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.Concurrent, cfg.Waiting, cfg.WaitingPerCaller = 1, 3, 2
		l := New(cfg)
		release, err := l.Acquire(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		wait := func(name string) {
			group.Go(func() {
				if _, err := l.Acquire(ctx, name); !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", name, err)
				}
			})
			synctest.Wait()
		}
		wait("a")
		wait("a")
		if _, err := l.Acquire(t.Context(), "a"); !errors.Is(err, ErrBusy) {
			t.Errorf("third of one caller: %v", err)
		}
		wait("b")
		if _, err := l.Acquire(t.Context(), "c"); !errors.Is(err, ErrBusy) {
			t.Errorf("fourth in all: %v", err)
		}
		cancel()
		group.Wait()
		release()
		release() // twice is harmless
		if len(l.callers)+len(l.turns)+l.waiting+l.active != 0 {
			t.Errorf("left over: %+v", l)
		}
		if release, err = l.Acquire(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		release()
	})
}

func TestStayAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.Concurrent, cfg.Background = 1, "background"
		l := New(cfg)
		release, err := l.Acquire(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for _, name := range []string{"a", "b", "background"} {
			group.Go(func() {
				var away Away
				if _, err := l.Acquire(t.Context(), name); !errors.As(err, &away) || away.RetryAfter() != time.Minute {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		synctest.Wait()
		l.StayAway(time.Minute)
		group.Wait()
		l.StayAway(time.Second) // less than what is said already
		l.StayAway(-time.Second)
		pass(20 * time.Second)
		var away Away
		if _, err := l.Acquire(t.Context(), "c"); !errors.As(err, &away) || away.RetryAfter() != 40*time.Second {
			t.Errorf("got %v", err)
		}
		release()
		if len(l.callers)+len(l.turns)+l.waiting+l.active != 0 {
			t.Errorf("left over: %+v", l)
		}
		pass(40 * time.Second)
		release, err = l.Acquire(t.Context(), "c")
		if err != nil {
			t.Fatal(err)
		}
		release()
		l.StayAway(24 * time.Hour)
		pass(MaxAway)
		if _, err := l.Acquire(t.Context(), "c"); err != nil {
			t.Errorf("after the longest while: %v", err)
		}
	})
}

// TestBackground: it comes after everybody, once at a time, and leaves half of
// the burst.
func TestBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.Background = "background"
		l := New(cfg)
		var mu sync.Mutex
		var order []string
		began := time.Now()
		var group sync.WaitGroup
		run := func(name string, takes time.Duration) {
			group.Go(func() {
				release, err := l.Acquire(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, fmt.Sprint(name, " ", time.Since(began).Round(10*time.Millisecond)))
				mu.Unlock()
				pass(takes)
				release()
			})
			synctest.Wait()
		}
		for range 3 {
			run("background", 250*time.Millisecond)
		}
		for i := range 4 {
			run(fmt.Sprint("pod", i), 0) // what the first of the background left of the burst
		}
		group.Wait()
		want := "[background 0s pod0 0s pod1 0s pod2 0s pod3 0s background 300ms background 550ms]"
		if got := fmt.Sprint(order); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}
