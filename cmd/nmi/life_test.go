// The times of a change of generations, with a clock of its own. roll_kernel_test.go has real agents.

package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
)

func TestTurn(t *testing.T) {
	for _, tt := range []struct {
		name               string
		ready, gone, ended time.Duration // when; 0 for never
		want               time.Duration
		problem            string
	}{
		{"ready", 3 * time.Second, 0, 0, 3 * time.Second, ""},
		{"older one gone", 0, 5 * time.Second, 0, 5 * time.Second, ""},
		{"told to end", 0, 0, time.Second, time.Second, "canceled"},
		{"never ready", 0, 0, 0, turnTime, "leaving them to it: cluster: away"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				after := func(d time.Duration) <-chan struct{} {
					c := make(chan struct{})
					if d != 0 {
						time.AfterFunc(d, func() { close(c) })
					}
					return c
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.ended != 0 {
					time.AfterFunc(tt.ended, cancel)
				}
				began := time.Now()
				err := awaitTurn(ctx, after(tt.ready), after(tt.gone), func() string { return "cluster: away" })
				if took := time.Since(began); took != tt.want {
					t.Errorf("took %v, want %v", took, tt.want)
				}
				if (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
					t.Errorf("got %v, want %q", err, tt.problem)
				}
			})
		})
	}
}

func TestDrain(t *testing.T) {
	for _, tt := range []struct {
		name string
		open time.Duration // how long a connection stays open; 0 for none
		want time.Duration
	}{
		{"nobody there", 0, settleTime}, // somebody may be on the way
		{"leaves", 4 * time.Second, 4 * time.Second},
		{"stays", time.Hour, drainTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLife(logr.Discard())
				if tt.open != 0 {
					l.crowd.add()
					leaves := time.AfterFunc(tt.open, l.crowd.remove)
					defer leaves.Stop()
				}
				began := time.Now()
				l.drain(t.Context())
				if took := time.Since(began); took != tt.want {
					t.Errorf("took %v, want %v", took, tt.want)
				}
			})
		})
	}
}

// Without a successor an agent goes on for a moment, sends away what it holds, and ends.
func TestLeaveAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(logr.Discard())
		sent := false
		l.sendAway = func() { sent = true }
		l.crowd.add() // nobody waits for it
		began := time.Now()
		l.leave(t.Context())
		if took := time.Since(began); took != appearTime || !sent {
			t.Errorf("took %v, want %v; requests sent away: %v", took, appearTime, sent)
		}
	})
}

// Kubernetes kills after 30 s, and the servers take 5 s of them for requests under way.
func TestLeavesInTime(t *testing.T) {
	const grace, servers = 30 * time.Second, 5 * time.Second
	if most := appearTime + startTime + drainTime + servers; most >= grace {
		t.Errorf("may take %v", most)
	}
}

func TestLastAnswer(t *testing.T) {
	l := newLife(logr.Discard())
	handler := l.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	for _, last := range []bool{false, true} {
		l.last.Store(last)
		w := httptest.NewRecorder()
		handler(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if got := w.Header().Get("Connection") == "close"; got != last {
			t.Errorf("last %v: closes %v", last, got)
		}
	}
}
