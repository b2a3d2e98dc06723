package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAsk(t *testing.T) {
	const token, refusal = `{"access_token": "secret"}`, `{"error": "invalid_request", "error_description": "Identity not found: PID-202"}`
	for name, test := range map[string]struct {
		want   string
		status int
		body   string
		err    string
	}{
		"a token":               {askToken, http.StatusOK, token, ""},
		"a refusal":             {askRefusal, http.StatusBadRequest, refusal, ""},
		"refused":               {askToken, http.StatusBadRequest, refusal, "expected a token, and got status 400: invalid_request: Identity not found"},
		"not refused":           {askRefusal, http.StatusOK, token, "should have been refused"},
		"the service itself":    {askRefusal, http.StatusBadRequest, `{"error": "invalid_request", "error_description": "Identity not found"}`, "expected a refusal"},
		"trouble, not refused":  {askRefusal, http.StatusBadGateway, refusal, "status 502"},
		"something else":        {askToken, http.StatusOK, "<html>", "status 200"},
		"a token without token": {askToken, http.StatusOK, "{}", "status 200"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Metadata") != "true" || r.URL.Query().Get("resource") != "https://vault.azure.net" || r.URL.Path != "/metadata/identity/oauth2/token" {
					t.Errorf("request %s %v", r.URL, r.Header)
				}
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			}))
			defer server.Close()
			err := ask(t.Context(), askOptions{want: test.want, resource: "https://vault.azure.net", service: server.URL})
			switch {
			case test.err == "" && err != nil:
				t.Error(err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("got %v, want %q", err, test.err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Error("the error has the token in it")
			}
		})
	}
	if (&askOptions{want: "coffee"}).validate() == nil {
		t.Error("any --ask is accepted")
	}
}
