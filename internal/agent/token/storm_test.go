package token_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/reason"
)

func refuse(status int) func(string) (int, string) {
	return func(string) (int, string) { return status, "" }
}

// TestBadResourceIsCheap lets all pods of a full node retry a resource that does not exist.
func TestBadResourceIsCheap(t *testing.T) {
	for _, status := range []int{400, 401, 403} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{fault: refuse(status)}
				c := newAgent(t, s)
				var group sync.WaitGroup
				for i := range 250 {
					group.Go(func() {
						token.Pass(time.Duration(i) * 4 * time.Millisecond)
						r := token.Ask("a", "https://no.such.thing")
						r.Caller = fmt.Sprint("ns/pod-", i)
						for range 60 {
							if _, _, err := c.Get(t.Context(), r); reason.AsRefusal(err) == nil || reason.AsRefusal(err).Answer().Status != status {
								t.Errorf("got %v", err)
							}
							token.Pass(time.Second)
						}
					})
				}
				group.Wait()
				if n := s.count(); n > 6 {
					t.Errorf("%d calls in a minute, for 15000 requests", n)
				}
			})
		})
	}
}

// TestOutageIsNoStorm starts an outage while no token is held.
func TestOutageIsNoStorm(t *testing.T) {
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{life: time.Hour, fault: fault}
				c := newAgent(t, s)
				ended := make(chan struct{})
				var group sync.WaitGroup
				for i := range 250 {
					group.Go(func() {
						r := token.Ask(fmt.Sprint(i%20), "x")
						r.Caller = fmt.Sprint("ns/pod-", i)
						for {
							if _, _, err := c.Get(t.Context(), r); err == nil {
								return
							}
							select {
							case <-ended:
								t.Error("no token, a minute after the outage")
								return
							case <-time.After(time.Second):
							}
						}
					})
				}
				token.Pass(time.Minute)
				if n := s.count(); n > 15*60+5 || s.busiestSecond() > 20 || s.atOnce() > 5 {
					t.Errorf("%d calls, up to %d a second, %d at once", n, s.busiestSecond(), s.atOnce())
				}
				s.setFault(nil)
				token.Pass(time.Minute + 20*time.Second)
				close(ended)
				group.Wait()
			})
		})
	}
}

// TestFullQueueOfAnotherPod checks that a pod whose queue is full does not block the same token for
// another pod.
func TestFullQueueOfAnotherPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: time.Hour, takes: 100 * time.Millisecond}
		c := newAgent(t, s)
		var group sync.WaitGroup
		for i := range 500 {
			group.Go(func() {
				r := token.Ask("a", fmt.Sprint("https://", i))
				r.Caller = "ns/greedy"
				_, _, _ = c.Get(t.Context(), r)
			})
		}
		synctest.Wait()
		r := token.Ask("a", "https://499")
		r.Caller = "ns/neighbor"
		if _, _, err := c.Get(t.Context(), r); err != nil {
			t.Errorf("got %v", err)
		}
		group.Wait()
	})
}
