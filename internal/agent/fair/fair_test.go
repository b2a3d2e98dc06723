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

// pass waits. In a synctest bubble that takes no time.
func pass(d time.Duration) {
	if d > 0 { // Go 1.26 with the race detector crashes on a channel timer of a bubble that is due at once
		<-time.After(d)
	}
}

func nothingLeft(t *testing.T, l *Limiter) {
	t.Helper()
	if len(l.callers)+len(l.namespaces)+l.waiting.Len()+l.active != 0 {
		t.Errorf("left over: %+v", l)
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
	for _, tt := range []struct {
		name   string
		caller func(i int) string
		most   int
	}{
		{"a pod", func(int) string { return "a/1" }, 2},
		{"a namespace", func(i int) string { return fmt.Sprint("a/", i%4) }, 4}, // one place is reserved for others
		{"many namespaces", func(i int) string { return fmt.Sprint("a", i%10, "/1") }, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := config()
				cfg.WaitingPerCaller = 100
				l := New(cfg)
				var mu sync.Mutex
				active, most := 0, 0
				perCaller, mostOfCaller := map[string]int{}, 0
				var group sync.WaitGroup
				for i := range 40 {
					name := tt.caller(i)
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
						most, mostOfCaller = max(most, active), max(mostOfCaller, perCaller[name])
						mu.Unlock()
						pass(time.Second)
						mu.Lock()
						active--
						perCaller[name]--
						mu.Unlock()
					})
				}
				group.Wait()
				if most != tt.most || mostOfCaller > cfg.PerCaller {
					t.Errorf("%d at once, %d of one caller; want %d and at most %d", most, mostOfCaller, tt.most, cfg.PerCaller)
				}
				nothingLeft(t, l)
			})
		})
	}
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
		release, err := l.Acquire(t.Context(), "a/1")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		wait := func(name string, want error) {
			group.Go(func() {
				if _, err := l.Acquire(ctx, name); !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", name, err, want)
				}
			})
			synctest.Wait()
		}
		wait("a/1", context.Canceled)
		wait("a/1", ErrBusy) // evicted for c
		wait("a/1", ErrBusy) // third of one caller
		wait("b/1", context.Canceled)
		wait("c/1", context.Canceled)
		wait("d/1", ErrBusy) // fourth in all, and no caller has more than one
		cancel()
		group.Wait()
		release()
		release() // twice is harmless
		nothingLeft(t, l)
		if release, err = l.Acquire(t.Context(), "c/1"); err != nil {
			t.Fatal(err)
		}
		release()
	})
}

// TestGreedyNamespace lets 24 pods of one namespace request operations all the time that never end
// on their own. Those of another namespace's pod, and its refreshes, must start almost at once.
func TestGreedyNamespace(t *testing.T) {
	for name, cfg := range map[string]Config{
		"metadata service": {Rate: 15, Burst: 5, Concurrent: 5, PerCaller: 2, Waiting: 1024, WaitingPerCaller: 64, Background: "background"},
		"Entra ID":         {Rate: 20, Burst: 40, Concurrent: 96, PerCaller: 4, Waiting: 1024, WaitingPerCaller: 64, Background: "background"},
		"other paths":      {Rate: 5, Burst: 10, Concurrent: 5, PerCaller: 2, Waiting: 512, WaitingPerCaller: 32},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { besideGreedy(t, cfg) }) })
	}
}

func besideGreedy(t *testing.T, cfg Config) {
	l := New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	loop := func(caller string, takes time.Duration) {
		group.Go(func() {
			for ctx.Err() == nil {
				if release, err := l.Acquire(ctx, caller); err == nil {
					pass(takes)
					release()
				}
				pass(100 * time.Millisecond)
			}
		})
	}
	for pod := range 24 {
		for range cfg.WaitingPerCaller + 6 {
			loop(fmt.Sprint("hostile/", pod), 10*time.Second)
		}
	}
	pass(10 * time.Second)
	try := func(caller string, within time.Duration) {
		began := time.Now()
		release, err := l.Acquire(t.Context(), caller)
		if err != nil {
			t.Errorf("%s: %v", caller, err)
			return
		}
		if took := time.Since(began); took > within {
			t.Errorf("%s began after %v", caller, took)
		}
		pass(50 * time.Millisecond)
		release()
	}
	for range 40 {
		try("shop/web", 2*time.Second)
		try("shop/ refresh", 2*time.Second)
	}
	if cfg.Background != "" {
		// Hostile operations are quick now, so that they could always start.
		cancel()
		group.Wait()
		ctx, cancel = context.WithCancel(t.Context())
		for pod := range 24 {
			loop(fmt.Sprint("hostile/", pod), time.Millisecond)
		}
		for range 10 {
			try(cfg.Background, 2*time.Second)
		}
	}
	cancel()
	group.Wait()
	nothingLeft(t, l)
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
				var away Cooldown
				if _, err := l.Acquire(t.Context(), name); !errors.As(err, &away) || away.RetryAfter() != time.Minute {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		synctest.Wait()
		l.StayAway(time.Minute)
		group.Wait()
		l.StayAway(time.Second) // ends before the current cooldown
		l.StayAway(-time.Second)
		pass(20 * time.Second)
		var away Cooldown
		if _, err := l.Acquire(t.Context(), "c"); !errors.As(err, &away) || away.RetryAfter() != 40*time.Second {
			t.Errorf("got %v", err)
		}
		release()
		nothingLeft(t, l)
		pass(40 * time.Second)
		release, err = l.Acquire(t.Context(), "c")
		if err != nil {
			t.Fatal(err)
		}
		release()
		l.StayAway(24 * time.Hour)
		pass(maxCooldown)
		if _, err := l.Acquire(t.Context(), "c"); err != nil {
			t.Errorf("after the longest while: %v", err)
		}
	})
}

// TestBackground checks that background operations start after all others, one at a time, and leave
// half of the burst.
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
			run(fmt.Sprint("pod", i), 0) // what the first background operation left of the burst
		}
		group.Wait()
		want := "[background 0s pod0 0s pod1 0s pod2 0s pod3 0s background 300ms background 550ms]"
		if got := fmt.Sprint(order); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}
