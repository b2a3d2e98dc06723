package observe_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/podid-io/podid/internal/observe"
)

func probe(h *observe.Health, path string) (int, string) {
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestHealth(t *testing.T) {
	var health observe.Health
	expect := func(path string, status int, text string) {
		t.Helper()
		if gotStatus, got := probe(&health, path); gotStatus != status || got != text {
			t.Errorf("%s: got %d %q, want %d %q", path, gotStatus, got, status, text)
		}
	}
	expect("/healthz", 200, "Not Active")
	expect("/readyz", 200, "ok")

	health.SetActive(true)
	expect("/healthz", 200, "Active")

	redirect := errors.New("not set yet")
	health.AddCheck("redirect", func() error { return redirect })
	health.AddCheck("caches", func() error { return errors.New("first list is on its way") })
	expect("/readyz", 503, "redirect: not set yet\ncaches: first list is on its way\n")
	expect("/healthz", 200, "Active")

	redirect = nil
	expect("/readyz", 503, "caches: first list is on its way\n")
	health.AddCheck("caches", func() error { return nil })
	expect("/readyz", 200, "ok")

	health.SetActive(false)
	expect("/healthz", 200, "Not Active")
	expect("/other", 404, "404 page not found\n")
}

func TestHealthConcurrently(t *testing.T) {
	var health observe.Health
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				health.AddCheck("x", func() error { return nil })
				health.SetActive(true)
				probe(&health, "/readyz")
				probe(&health, "/healthz")
			}
		})
	}
	wg.Wait()
}
