// The time limits of a handover. cmd/nmi tests it with real agents.

package lifecycle

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
		{"older agent gone", 0, 5 * time.Second, 0, 5 * time.Second, ""},
		{"stopped", 0, 0, time.Second, time.Second, "canceled"},
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
		{"none", 0, settleTime}, // one may be in flight
		{"closes", 4 * time.Second, 4 * time.Second},
		{"stays open", time.Hour, drainTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(logr.Discard())
				if tt.open != 0 {
					l.open.add()
					closes := time.AfterFunc(tt.open, l.open.remove)
					defer closes.Stop()
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

// TestStopAlone: without a newer agent, an agent serves for appearTime and cancels pending
// requests.
func TestStopAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(logr.Discard())
		canceled := false
		l.open.add() // not waited for
		began := time.Now()
		l.Stop(t.Context(), func(context.Context) { t.Error("nothing has replaced it") }, func() { canceled = true })
		if took := time.Since(began); took != appearTime || !canceled {
			t.Errorf("took %v, want %v; pending requests canceled: %v", took, appearTime, canceled)
		}
	})
}

// TestStopsInTime: Kubernetes kills a pod after 30 s, and the servers need 5 s of them to shut
// down.
func TestStopsInTime(t *testing.T) {
	const grace, servers = 30 * time.Second, 5 * time.Second
	if most := appearTime + startTime + replacedTime + drainTime + servers; most >= grace {
		t.Errorf("may take %v", most)
	}
}

func TestHandlerClosesConnections(t *testing.T) {
	l := New(logr.Discard())
	handler := l.Handler(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	for _, closing := range []bool{false, true} {
		l.closing.Store(closing)
		w := httptest.NewRecorder()
		handler(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if got := w.Header().Get("Connection") == "close"; got != closing {
			t.Errorf("closing %v: closes %v", closing, got)
		}
	}
}
