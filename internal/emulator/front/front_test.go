package front_test

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/world"
)

// server serves a surface that counts its requests and responds "worked". It calls met for every
// request after its fault is selected.
func server(t *testing.T, met func()) (*world.World, *httptest.Server, *atomic.Int32) {
	t.Helper()
	w, err := world.New(world.Default("s"), nil)
	if err != nil {
		t.Fatal(err)
	}
	worked := &atomic.Int32{}
	surface := front.Surface{
		Name: world.SurfaceARM, World: w, Log: slog.New(slog.DiscardHandler),
		WriteError: func(w http.ResponseWriter, status int, code, message string) {
			http.Error(w, code+": "+message, status)
		},
		Latency: func(s world.Settings) time.Duration { met(); return time.Duration(s.ARM.Latency) },
	}
	s := httptest.NewServer(surface.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		worked.Add(1)
		front.Caller(r.Context(), "somebody")
		front.Detail(r.Context(), "key", "value")
		front.Detail(r.Context(), "nothing", "")
		_, _ = w.Write([]byte("worked"))
	})))
	t.Cleanup(s.Close)
	return w, s, worked
}

func get(t *testing.T, url string) (int, string, http.Header, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, strings.TrimSpace(string(body)), answer.Header, err
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name       string
		fault      world.Fault
		status     int // 0: no response
		body       string
		retryAfter string
		worked     int32
	}{
		{"none", world.Fault{}, 200, "worked", "", 1},
		{"status", world.Fault{Status: 429, RetryAfter: 7, Code: "Busy"}, 429, `Busy: The fault "f" was asked for.`, "7", 0},
		{"body", world.Fault{Status: 503, Body: "gone fishing"}, 503, "gone fishing", "", 0},
		{"drop", world.Fault{Drop: true}, 0, "", "", 0},
		{"latency", world.Fault{Latency: world.Duration(time.Millisecond)}, 200, "worked", "", 1},
		{"work, then no answer", world.Fault{Drop: true, After: true}, 0, "", "", 1},
		{"work, then an error", world.Fault{Status: 500, After: true}, 500, `: The fault "f" was asked for.`, "", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w, s, worked := server(t, func() {})
			if test.fault != (world.Fault{}) {
				test.fault.Name = "f"
				if err := w.SetFault(test.fault); err != nil {
					t.Fatal(err)
				}
			}
			status, body, header, err := get(t, s.URL+"/a?api-version=1&secret=2")
			if status != test.status || body != test.body || worked.Load() != test.worked || (err != nil) != (test.status == 0) {
				t.Errorf("%d %q, worked %d times, error %v", status, body, worked.Load(), err)
			}
			if got := header.Get("Retry-After"); got != test.retryAfter {
				t.Errorf("Retry-After %q", got)
			}
			entries := w.Log().Wait(t.Context(), world.Filter{})
			want := world.Request{
				Seq: 1, Surface: "arm", Method: "POST", Path: "/a", Query: "api-version=1&secret=…", Agent: "Go-http-client/1.1",
				Status: test.status, Fault: test.fault.Name,
			}
			if test.retryAfter != "" {
				want.Details = map[string]string{"retryAfter": test.retryAfter}
			}
			if test.worked > 0 {
				want.Caller, want.Details = "somebody", map[string]string{"key": "value"}
			}
			if diff := cmp.Diff([]world.Request{want}, entries, cmpopts.IgnoreFields(world.Request{}, "Time", "Duration", "Remote")); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHang: a request hangs until its fault is removed.
func TestHang(t *testing.T) {
	asked := make(chan struct{}, 2)
	w, s, worked := server(t, func() { asked <- struct{}{} })
	if err := w.SetFault(world.Fault{Name: "f", Hang: true, Count: 1}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		status, _, _, err := get(t, s.URL)
		if status != 200 {
			err = errors.Join(err, errors.New("no answer"))
		}
		done <- err
	}()
	<-asked // the fault is spent: the next request passes
	if status, _, _, _ := get(t, s.URL); status != 200 {
		t.Errorf("the second request: %d", status)
	}
	w.RemoveFault("f")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if worked.Load() != 2 {
		t.Errorf("worked %d times", worked.Load())
	}
}

func TestBodyLimit(t *testing.T) {
	_, s, worked := server(t, func() {})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, strings.NewReader(strings.Repeat("x", 2<<20)))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err == nil {
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s", answer.Status)
		}
	}
	if worked.Load() != 0 {
		t.Error("a body of 2 MiB was read")
	}
}
