// ARM's errors and their JSON shape.

package arm

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// failure is an error response: {"error":{"code":…,"message":…}}.
type failure struct {
	status     int
	code, text string
	details    []errorBody
	header     map[string]string
	provider   bool // from the compute service, not from Resource Manager itself
}

type errorBody struct {
	Code    string      `json:"code"`
	Message string      `json:"message"`
	Target  string      `json:"target,omitempty"`
	Details []errorBody `json:"details,omitempty"`
}

func fail(status int, code, format string, args ...any) *failure {
	return &failure{status: status, code: code, text: fmt.Sprintf(format, args...)}
}

func unauthorized(authority, code, format string, args ...any) *failure {
	f := fail(http.StatusUnauthorized, code, format, args...)
	f.header = map[string]string{
		"Www-Authenticate": fmt.Sprintf(`Bearer authorization_uri=%q, error="invalid_token", error_description=%q`,
			authority+"/common", code),
	}
	return f
}

func (f *failure) write(w http.ResponseWriter) {
	for name, value := range f.header {
		w.Header().Set(name, value)
	}
	if !f.provider {
		w.Header().Set("X-Ms-Failure-Cause", "gateway")
	}
	writeJSON(w, f.status, map[string]errorBody{"error": {Code: f.code, Message: f.text, Details: f.details}})
}

// WriteError responds with a fault in ARM's format.
func (h *Handler) WriteError(w http.ResponseWriter, status int, code, message string) {
	if code == "" {
		usual := map[int]string{
			http.StatusUnauthorized: "InvalidAuthenticationToken", http.StatusForbidden: "AuthorizationFailed",
			http.StatusNotFound: "ResourceNotFound", http.StatusConflict: "Conflict",
			http.StatusTooManyRequests: "TooManyRequests", http.StatusInternalServerError: "InternalServerError",
			http.StatusServiceUnavailable: "ServiceUnavailable", http.StatusGatewayTimeout: "GatewayTimeout",
		}
		if code = usual[status]; code == "" {
			code = "BadRequest"
		}
	}
	f := fail(status, code, "%s", message)
	f.provider = status == http.StatusTooManyRequests && code != subscriptionThrottled
	f.write(w)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil { // strings, numbers and maps of them: cannot fail
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}
