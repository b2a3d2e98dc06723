package token

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/reason"
)

func TestFailureMemory(t *testing.T) {
	final := &reason.Refusal{Reason: reason.EntraResource}
	trouble := &reason.Refusal{Reason: reason.IMDSTrouble}
	throttled := &reason.Refusal{Reason: reason.IMDSThrottled, RetryAfter: 30 * time.Second}
	queued := &reason.Refusal{Reason: reason.IMDSBusy}
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
				m.record(k, tt.err, now)
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
	m.record(k, &reason.Refusal{Reason: reason.IMDSThrottled, RetryAfter: 30 * time.Second}, now)
	if f := reason.AsRefusal(m.recall(k, now.Add(12*time.Second))); f == nil || f.RetryAfter != 18*time.Second {
		t.Errorf("got %+v, want 18 s left", f)
	}
}

func TestTroubleEndsWithToken(t *testing.T) {
	m := newFailures(8, 4)
	x, y, now := keyOf(ask("a", "x")), keyOf(ask("b", "y")), time.Now()
	m.record(x, &reason.Refusal{Reason: reason.IMDSTrouble}, now)
	m.record(keyOf(ask("c", "z")), &reason.Refusal{Reason: reason.EntraResource}, now)
	m.success(y, now.Add(100*time.Millisecond))
	if err := m.recall(x, now.Add(200*time.Millisecond)); err != nil {
		t.Errorf("the source answers others, and this one is told %v", err)
	}
	if m.recall(keyOf(ask("c", "z")), now.Add(200*time.Millisecond)) == nil {
		t.Error("a token for others takes back a refusal")
	}
	m.record(x, &reason.Refusal{Reason: reason.IMDSTrouble}, now.Add(300*time.Millisecond))
	if m.recall(x, now.Add(400*time.Millisecond)) == nil {
		t.Error("a failure after the token is not remembered")
	}
}

func TestFailuresAreBounded(t *testing.T) {
	m := newFailures(8, 4)
	now := time.Now()
	for i := range 1000 {
		now = now.Add(time.Millisecond)
		m.record(keyOf(ask("greedy", fmt.Sprint(i))), &reason.Refusal{Reason: reason.EntraResource}, now)
		if i < 100 {
			m.record(keyOf(ask(fmt.Sprint(i), "x")), &reason.Refusal{Reason: reason.EntraResource}, now)
		}
		if len(m.records) > 8 || m.perID[keyOf(ask("greedy", "")).identity()] > 4 {
			t.Fatalf("%d kept", len(m.records))
		}
	}
	for k := range m.records {
		m.remove(k)
	}
	if len(m.records)+len(m.perID) != 0 {
		t.Errorf("left over: %+v", m)
	}
}
