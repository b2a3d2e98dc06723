// Entra ID's errors: AADSTS codes in their JSON shape.

package entra

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/podid-io/podid/internal/emulator/world"
)

// failure is an error response. The codes and their meaning are those of
// https://learn.microsoft.com/entra/identity-platform/reference-error-codes; texts that it does not
// document are the emulator's.
type failure struct {
	status int
	kind   string // OAuth's error: invalid_request, invalid_client, ...
	code   int    // NNNNN of AADSTSNNNNN
	text   string
}

func (f *failure) Error() string { return fmt.Sprintf("AADSTS%d: %s", f.code, f.text) }

func badRequest(code int, format string, args ...any) *failure {
	return &failure{http.StatusBadRequest, "invalid_request", code, fmt.Sprintf(format, args...)}
}

func badClient(code int, format string, args ...any) *failure {
	return &failure{http.StatusUnauthorized, "invalid_client", code, fmt.Sprintf(format, args...)}
}

func failed(status int, kind string, code int, format string, args ...any) *failure {
	return &failure{status, kind, code, fmt.Sprintf(format, args...)}
}

type failureBody struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	Codes       []int  `json:"error_codes"`
	Timestamp   string `json:"timestamp"`
	Trace       string `json:"trace_id"`
	Correlation string `json:"correlation_id"`
	URI         string `json:"error_uri"`
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, f *failure) {
	trace, correlation := world.NewGUID(), correlationID(r)
	stamp := h.world.Now().UTC().Format("2006-01-02 15:04:05Z")
	w.Header().Set("X-Ms-Request-Id", trace)
	writeJSON(w, f.status, failureBody{
		Error: f.kind,
		Description: fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s",
			f.code, f.text, trace, correlation, stamp),
		Codes: []int{f.code}, Timestamp: stamp, Trace: trace, Correlation: correlation,
		URI: h.tokens.base + "/error?code=" + strconv.Itoa(f.code),
	})
}

// correlationID returns the client's correlation ID if it is valid, or a new one.
func correlationID(r *http.Request) string {
	if id := r.Header.Get("Client-Request-Id"); len(id) == 36 {
		return id
	}
	return world.NewGUID()
}

// WriteError responds with a fault in Entra ID's format.
func (h *Handler) WriteError(w http.ResponseWriter, status int, code, message string) {
	number, kind := 90033, "temporarily_unavailable" // "a transient error has occurred"
	switch {
	case status == http.StatusTooManyRequests:
		number = 90055 // "tenant throttling"
	case status >= 400 && status < 500:
		number, kind = 90013, "invalid_request"
	}
	if n, err := strconv.Atoi(code); err == nil {
		number = n
	}
	h.fail(w, &http.Request{Header: http.Header{}}, &failure{status, kind, number, message})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil { // strings and numbers only: cannot fail
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store, no-cache")
	w.Header().Set("Pragma", "no-cache")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}
