package daemon

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"k8s.io/client-go/rest"
)

// TestCountErrors: which requests count, and under which name.
func TestCountErrors(t *testing.T) {
	const own = "/apis/aadpodidentity.k8s.io/v1/namespaces/n/azureassignedidentities"
	for _, c := range []struct {
		name, method, path string
		status             int // 0: no answer
		cancelled          bool
		want               string
	}{
		{"fine", http.MethodPost, own, 201, false, ""},
		{"created already", http.MethodPost, own, 409, false, ""},
		{"gone", http.MethodDelete, own + "/x", 404, false, ""},
		{"not created", http.MethodPost, own, 500, false, "assigned_identity_addition"},
		{"not deleted", http.MethodDelete, own + "/x", 503, false, "assigned_identity_deletion"},
		{"not updated", http.MethodPatch, own + "/x", 429, false, "assigned_identity_update"},
		{"no status", http.MethodPut, own + "/x/status", 0, false, "update_azure_assigned_identity_status"},
		{"no list", http.MethodGet, "/api/v1/pods", 403, false, "get_pod_list"},
		{"pod of a namespace", http.MethodGet, "/api/v1/namespaces/n/pods/p", 401, false, "get_pod_list"},
		{"Secret", http.MethodGet, "/api/v1/namespaces/n/secrets/s", 403, false, "get_secret"},
		{"Lease", http.MethodPut, "/apis/coordination.k8s.io/v1/namespaces/n/leases/mic", 0, false, "put_leases"},
		{"namespace", http.MethodGet, "/api/v1/namespaces/n", 500, false, "get_namespaces"},
		{"discovery", http.MethodGet, "/apis/coordination.k8s.io/v1", 500, false, "get_discovery"},
		{"odd", http.MethodGet, "/", 500, false, "get_discovery"},
		{"called off", http.MethodPut, own + "/x", 0, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			config := &rest.Config{}
			CountErrors(config, func(operation string) { got = operation })
			trip := config.WrapTransport(roundTripper(func(*http.Request) (*http.Response, error) {
				if c.status == 0 {
					return nil, errors.New("connection refused")
				}
				return &http.Response{StatusCode: c.status, Body: http.NoBody}, nil
			}))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.cancelled {
				cancel()
			}
			req, err := http.NewRequestWithContext(ctx, c.method, "https://api"+c.path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			if res, err := trip.RoundTrip(req); err == nil {
				_ = res.Body.Close()
			}
			if got != c.want {
				t.Errorf("counted %q, want %q", got, c.want)
			}
		})
	}
}
