// Counting requests to the API server that failed.

package daemon

import (
	"net/http"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/observe"
)

// CountErrors calls count for every failed request: one without an answer, or one that the API
// server rejected or could not serve. Routine answers (not found, conflict, expired) do not count.
// operation is the name that v1.8.17 used for the request, or one such as "patch_events" if it had
// none.
func CountErrors(config *rest.Config, count func(operation string)) {
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(r)
			switch {
			case err != nil && r.Context().Err() != nil: // canceled by this process
			case err != nil, failed(res.StatusCode):
				count(operation(r))
			}
			return res, err
		})
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func failed(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		return true
	}
	return status >= http.StatusInternalServerError
}

// operation names a request by its method and the kind of object.
func operation(r *http.Request) string {
	resource, subresource := resourceOf(r.URL.Path)
	if resource == "azureassignedidentities" {
		switch r.Method {
		case http.MethodPost:
			return observe.OpAssignedIdentityAddition
		case http.MethodDelete:
			return observe.OpAssignedIdentityDeletion
		case http.MethodPut, http.MethodPatch:
			if subresource == "status" {
				return observe.OpAssignedIdentityStatus
			}
			return observe.OpAssignedIdentityUpdate
		}
	}
	if resource == "pods" && r.Method == http.MethodGet {
		return observe.OpGetPodList
	}
	if resource == "secrets" && r.Method == http.MethodGet {
		return observe.OpGetSecret
	}
	return ascii.ToLower(r.Method) + "_" + resource
}

// resourceOf reads the kind and the subresource out of a path such as
// /apis/GROUP/VERSION/namespaces/NAMESPACE/KIND/NAME/SUBRESOURCE.
func resourceOf(path string) (string, string) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	prefix := map[string]int{"api": 2, "apis": 3}[parts[0]]
	if prefix == 0 || len(parts) <= prefix {
		return "discovery", ""
	}
	parts = parts[prefix:]
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	if len(parts) > 2 {
		return parts[0], parts[2]
	}
	return parts[0], ""
}
