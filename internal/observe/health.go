// Liveness and readiness, compatible with the probes in v1.8.17's manifests.

package observe

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// Health serves the probes of a daemon. The zero value is ready to use: it is not active, and ready
// because it has no checks. All methods are safe for concurrent use.
type Health struct {
	active atomic.Bool

	mu     sync.RWMutex
	checks []check
}

type check struct {
	name string
	run  func() error
}

// SetActive records whether the daemon does its job: MIC while it leads, NMI once its redirect is
// in place. It changes only the text of /healthz.
func (h *Health) SetActive(active bool) { h.active.Store(active) }

// AddCheck makes readiness depend on f, which must return at once and from memory. Its error is
// shown to every prober: it must contain no secret and should say what to do. A second check of the
// same name replaces the first.
func (h *Health) AddCheck(name string, f func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.checks {
		if h.checks[i].name == name {
			h.checks[i].run = f
			return
		}
	}
	h.checks = append(h.checks, check{name: name, run: f})
}

// Ready runs the checks and returns the failures as "name: reason". It returns none when the daemon
// is ready.
func (h *Health) Ready() []string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var reasons []string
	for _, c := range h.checks {
		if err := c.run(); err != nil {
			reasons = append(reasons, c.name+": "+err.Error())
		}
	}
	return reasons
}

// Handler serves /healthz and /readyz. /healthz is always 200, so that a standby daemon is not
// restarted; its text is "Active" or "Not Active". /readyz is 200 "ok", or 503 with one reason per
// line.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", h.serveLive)
	mux.HandleFunc("/readyz", h.serveReady)
	return mux
}

func (h *Health) serveLive(w http.ResponseWriter, _ *http.Request) {
	text := "Not Active"
	if h.active.Load() {
		text = "Active"
	}
	writeText(w, http.StatusOK, text)
}

func (h *Health) serveReady(w http.ResponseWriter, _ *http.Request) {
	if reasons := h.Ready(); len(reasons) > 0 {
		writeText(w, http.StatusServiceUnavailable, strings.Join(reasons, "\n")+"\n")
		return
	}
	writeText(w, http.StatusOK, "ok")
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// A prober that disconnected needs no response.
	_, _ = io.WriteString(w, text)
}
