package token

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func refuse(status int) func(string) (int, string) {
	return func(string) (int, string) { return status, "" }
}

// TestBadResourceIsCheap: all pods of a full node want what does not exist, and
// do not give up.
func TestBadResourceIsCheap(t *testing.T) {
	for _, status := range []int{400, 401, 403} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{ill: refuse(status)}
				c := newAgent(t, s)
				var group sync.WaitGroup
				for i := range 250 {
					group.Go(func() {
						pass(time.Duration(i) * 4 * time.Millisecond)
						r := ask("a", "https://no.such.thing")
						r.Caller = fmt.Sprint("ns/pod-", i)
						for range 60 {
							if _, _, err := c.Get(t.Context(), r); failureOf(err) == nil || failureOf(err).Status != status {
								t.Errorf("got %v", err)
							}
							pass(time.Second)
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

// TestTroubleIsNoStorm: no tokens in memory, and the service is ill.
func TestTroubleIsNoStorm(t *testing.T) {
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{life: time.Hour, ill: fault}
				c := newAgent(t, s)
				ended := make(chan struct{})
				var group sync.WaitGroup
				for i := range 250 {
					group.Go(func() {
						r := ask(fmt.Sprint(i%20), "x")
						r.Caller = fmt.Sprint("ns/pod-", i)
						for {
							if _, _, err := c.Get(t.Context(), r); err == nil {
								return
							}
							select {
							case <-ended:
								t.Error("no token, a minute after the service was well again")
								return
							case <-time.After(time.Second):
							}
						}
					})
				}
				pass(time.Minute)
				if n := s.count(); n > 15*60+5 || s.busiestSecond() > 20 || s.atOnce() > 5 {
					t.Errorf("%d calls, up to %d a second, %d at once", n, s.busiestSecond(), s.atOnce())
				}
				s.fall(nil)
				pass(time.Minute + 20*time.Second)
				close(ended)
				group.Wait()
			})
		})
	}
}

func TestFailureMemory(t *testing.T) {
	final := &Failure{Status: http.StatusBadRequest, Code: "invalid_resource"}
	trouble := &Failure{Status: http.StatusInternalServerError}
	throttled := &Failure{Status: http.StatusTooManyRequests, RetryAfter: 30 * time.Second}
	queued := &Failure{Status: http.StatusInternalServerError, queued: true}
	k := keyOf(ask("a", "x"))
	tests := []struct {
		name  string
		err   error
		times int
		want  time.Duration
	}{
		{"refused", final, 1, 2 * time.Second},
		{"refused again", final, 2, 4 * time.Second},
		{"refused all the time", final, 99, 30 * time.Second},
		{"trouble", trouble, 1, time.Second},
		{"trouble all the time", trouble, 99, 4 * time.Second},
		{"throttled", throttled, 1, 30 * time.Second},
		{"queue", queued, 1, 0},
		{"busy", ErrBusy, 1, 0},
		{"something else", errors.New("x"), 1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newFailures(8, 4)
			now := time.Now()
			for i := range tt.times {
				if i > 0 {
					now = now.Add(40 * time.Second)
				}
				m.note(k, tt.err, now)
			}
			if tt.want == 0 {
				if err := m.recall(k, now); err != nil {
					t.Fatalf("remembered: %v", err)
				}
				return
			}
			if err := m.recall(k, now.Add(tt.want-time.Millisecond)); err == nil {
				t.Error("forgotten too early")
			}
			if err := m.recall(k, now.Add(tt.want)); err != nil {
				t.Error("remembered for too long")
			}
			edited := ask("a", "x")
			edited.Identity.Spec.ClientID = "corrected"
			if err := m.recall(keyOf(edited), now); err != nil {
				t.Error("remembered of an identity that was edited since")
			}
		})
	}
}

func TestFailureRetryAfter(t *testing.T) {
	m := newFailures(8, 4)
	k, now := keyOf(ask("a", "x")), time.Now()
	m.note(k, &Failure{Status: http.StatusTooManyRequests, RetryAfter: 30 * time.Second}, now)
	if f := failureOf(m.recall(k, now.Add(12*time.Second))); f == nil || f.RetryAfter != 18*time.Second {
		t.Errorf("got %+v, want 18 s left", f)
	}
}

func TestTroubleEndsWithToken(t *testing.T) {
	m := newFailures(8, 4)
	x, y, now := keyOf(ask("a", "x")), keyOf(ask("b", "y")), time.Now()
	m.note(x, &Failure{Status: http.StatusInternalServerError}, now)
	m.note(keyOf(ask("c", "z")), &Failure{Status: http.StatusBadRequest}, now)
	m.success(y, now.Add(100*time.Millisecond))
	if err := m.recall(x, now.Add(200*time.Millisecond)); err != nil {
		t.Errorf("the source answers others, and this one is told %v", err)
	}
	if m.recall(keyOf(ask("c", "z")), now.Add(200*time.Millisecond)) == nil {
		t.Error("a token for others takes back a refusal")
	}
	m.note(x, &Failure{Status: http.StatusInternalServerError}, now.Add(300*time.Millisecond))
	if m.recall(x, now.Add(400*time.Millisecond)) == nil {
		t.Error("a failure after the token is not remembered")
	}
}

func TestFailuresAreBounded(t *testing.T) {
	m := newFailures(8, 4)
	now := time.Now()
	for i := range 1000 {
		now = now.Add(time.Millisecond)
		m.note(keyOf(ask("greedy", fmt.Sprint(i))), &Failure{Status: http.StatusBadRequest}, now)
		if i < 100 {
			m.note(keyOf(ask(fmt.Sprint(i), "x")), &Failure{Status: http.StatusBadRequest}, now)
		}
		if len(m.notes) > 8 || m.perID[keyOf(ask("greedy", "")).identity()] > 4 {
			t.Fatalf("%d kept", len(m.notes))
		}
	}
	for k := range m.notes {
		m.remove(k)
	}
	if len(m.notes)+len(m.perID) != 0 {
		t.Errorf("left over: %+v", m)
	}
}

// TestQueueIsNobodysFault: a pod whose own queue is full does not keep a
// neighbour from the same token.
func TestQueueIsNobodysFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{life: time.Hour, takes: 100 * time.Millisecond}
		c := newAgent(t, s)
		var group sync.WaitGroup
		for i := range 500 {
			group.Go(func() {
				r := ask("a", fmt.Sprint("https://", i))
				r.Caller = "ns/greedy"
				_, _, _ = c.Get(t.Context(), r)
			})
		}
		synctest.Wait()
		r := ask("a", "https://499")
		r.Caller = "ns/neighbour"
		if _, _, err := c.Get(t.Context(), r); err != nil {
			t.Errorf("got %v", err)
		}
		group.Wait()
	})
}
