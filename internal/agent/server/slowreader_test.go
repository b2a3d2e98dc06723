package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// places is a limiter that counts calls in progress.
type places struct{ taken int }

func (p *places) Acquire(context.Context, string) (func(), error) {
	p.taken++
	released := false
	return func() {
		if !released {
			p.taken--
		}
		released = true
	}, nil
}

func (p *places) StayAway(time.Duration) {}

// watched is a client that records how many calls are in progress when it gets the response.
type watched struct {
	*httptest.ResponseRecorder
	places *places
	taken  int
}

func (w *watched) Write(b []byte) (int, error) {
	w.taken = w.places.taken
	return w.ResponseRecorder.Write(b)
}

// TestSlowReader: a client that reads a passed-on response slowly does not keep a call of the
// limiter.
func TestSlowReader(t *testing.T) {
	w := newWorld(t, nil)
	p := &places{}
	client := &watched{ResponseRecorder: httptest.NewRecorder(), places: p, taken: -1}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metadata/instance", http.NoBody)
	res := result{began: time.Now()}
	w.server.forward(client, request, passage{path: "/metadata/instance", query: "api-version=2021-02-01", limiter: p, caller: "shop/web"}, &res)
	if res.status != http.StatusOK || client.taken != 0 || p.taken != 0 {
		t.Errorf("status %d, %d calls in progress during the response, %d after it", res.status, client.taken, p.taken)
	}
}
