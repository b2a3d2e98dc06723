// The API server's own advice on when to retry.

package listwatch

import (
	"context"
	"net/http"

	"k8s.io/client-go/rest"
)

// retried is the key of a context whose requests Patient retries.
type retried struct{}

// OwnRetries makes the clients of a config return a failed list or watch to Patient at once.
//
// client-go itself retries a request that is answered with Retry-After, and waits as long as the
// header says. An API server that is starting says five seconds, although it needs a fraction of a
// second more. Without OwnRetries, an informer would miss the changes of these five seconds, in
// which a program that has just become the leader acts on what it knew before. The pauses of
// Patient bound the load instead. An API server that has too much to do (429) is obeyed: it counts
// on all agents of a cluster to wait.
func OwnRetries(config *rest.Config) {
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(r)
			if err == nil && res.StatusCode != http.StatusTooManyRequests && r.Context().Value(retried{}) != nil {
				res.Header.Del("Retry-After")
			}
			return res, err
		})
	})
}

// withOwnRetries marks the requests of a context.
func withOwnRetries(ctx context.Context) context.Context {
	return context.WithValue(ctx, retried{}, true)
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
