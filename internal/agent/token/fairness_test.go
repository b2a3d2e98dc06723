package token_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/reason"
)

// greed returns what greedy pods request.
func greed() map[string]func(pod, i int) token.Request {
	return map[string]func(pod, i int) token.Request{
		"ever new resources": func(pod, i int) token.Request { return token.Ask(fmt.Sprint("g", pod), fmt.Sprint("https://", i)) },
		"bad resources":      func(pod, i int) token.Request { return token.Ask(fmt.Sprint("g", pod), fmt.Sprint("bad", i)) },
		"many identities":    func(pod, i int) token.Request { return token.Ask(fmt.Sprint("g", pod, ".", i), "x") },
	}
}

// TestGreedyPods checks that pods get their tokens beside pods that request as much as they can,
// and that the service's limits are kept.
func TestGreedyPods(t *testing.T) {
	for name, wish := range greed() {
		for _, pods := range []int{1, 16} { // 16 fill the whole queue
			t.Run(fmt.Sprintf("%d with %s", pods, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { besideGreedy(t, pods, wish) })
			})
		}
	}
}

func besideGreedy(t *testing.T, pods int, wish func(pod, i int) token.Request) {
	s := &service{life: 24 * time.Hour, takes: 50 * time.Millisecond}
	s.refuses = "bad"
	c := newAgent(t, s)
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for pod := range pods {
		for worker := range 66 { // connections, more than the queue allows a pod
			group.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					r := wish(pod, i*66+worker)
					r.Caller = fmt.Sprint("ns/greedy-", pod)
					if _, _, err := c.Get(ctx, r); err != nil && reason.AsRefusal(err) == nil {
						token.Pass(100 * time.Millisecond) // refused
					}
				}
			})
		}
	}
	token.Pass(3 * time.Second)
	// A turn of each of the others at 15 a second, and the call itself.
	neighbors(t, c, "ns", pods+2)
	// In another namespace, one turn of all the greedy pods together.
	neighbors(t, c, "other", 3)
	stop()
	group.Wait()
	if s.busiestSecond() > 20 || s.atOnce() > 5 {
		t.Errorf("%d calls a second, %d at once: more than the service allows", s.busiestSecond(), s.atOnce())
	}
}

// neighbors requests a token each for pods of a namespace. None may wait for more than so many
// turns.
func neighbors(t *testing.T, c *token.Cache, namespace string, turns int) {
	t.Helper()
	var worst time.Duration
	for i := range 10 {
		r := token.Ask(fmt.Sprint(namespace, "-neighbor-", i), "x")
		r.Caller = fmt.Sprint(namespace, "/neighbor-", i)
		began := time.Now()
		if _, _, err := c.Get(t.Context(), r); err != nil {
			t.Errorf("neighbor %d: %v", i, err)
		}
		worst = max(worst, time.Since(began))
		token.Pass(300 * time.Millisecond)
	}
	if bound := time.Duration(turns)*time.Second/15 + 150*time.Millisecond; worst > bound {
		t.Errorf("a neighbor waited %v, more than %v", worst, bound)
	}
	t.Logf("a neighbor in namespace %s waited %v at most", namespace, worst)
}

// TestGreedyShare checks that ten modest pods and a greedy one get the same while all have requests
// waiting.
func TestGreedyShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: 24 * time.Hour, takes: 20 * time.Millisecond}
		c := newAgent(t, s)
		ctx, stop := context.WithTimeout(t.Context(), 22*time.Second)
		defer stop()
		var mu sync.Mutex
		got := map[int]int{}
		var group sync.WaitGroup
		for pod := range 11 {
			workers := 2
			if pod == 0 {
				workers = 70
			}
			for worker := range workers {
				group.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						r := token.Ask(fmt.Sprint("id", pod), fmt.Sprint(worker, "/", i))
						r.Caller = fmt.Sprint("ns/", pod)
						if _, _, err := c.Get(ctx, r); err != nil {
							token.Pass(20 * time.Millisecond)
							continue
						}
						mu.Lock()
						got[pod]++
						mu.Unlock()
					}
				})
			}
		}
		group.Wait()
		for pod, n := range got {
			// 15 a second, shared by 11, for 22 s: 30 each.
			if n < 25 || n > 37 {
				t.Errorf("pod %d got %d tokens, want about 30", pod, n)
			}
		}
	})
}

// TestRetryAfterForAll checks that one 429 with Retry-After counts for all pods.
func TestRetryAfterForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: time.Hour, fault: func(string) (int, string) { return 429, "40" }}
		c := newAgent(t, s)
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				token.Pass(time.Duration(i) * 500 * time.Millisecond)
				r := token.Ask(fmt.Sprint(i), "x")
				r.Caller = fmt.Sprint("ns/", i)
				f := reason.AsRefusal(func() error { _, _, err := c.Get(t.Context(), r); return err }())
				if f == nil || f.Answer().Status != 429 || f.RetryAfter > 40*time.Second-time.Duration(i)*500*time.Millisecond || f.RetryAfter < 14*time.Second {
					t.Errorf("pod %d got %+v", i, f)
				}
			})
		}
		group.Wait()
		if n := s.count(); n != 1 {
			t.Errorf("%d calls", n)
		}
		s.setFault(nil)
		token.Pass(16 * time.Second)
		token.MustGet(t, c, token.Ask("1", "x"), `"token-2"`, token.Miss)
	})
}
