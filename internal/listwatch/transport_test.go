package listwatch

import (
	"context"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// TestOwnRetries: what an API server says while it starts does not delay a list or a watch, and
// other requests obey it.
func TestOwnRetries(t *testing.T) {
	const pause, failures = "3600", 2
	var requests, code atomic.Int32
	code.Store(http.StatusServiceUnavailable)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) <= failures {
			w.Header().Set("Retry-After", pause)
			w.WriteHeader(int(code.Load()))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") == "" {
			_, _ = w.Write([]byte(`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"}}`))
		}
	}))
	defer server.Close()
	config := &rest.Config{Host: server.URL, APIPath: "/api", ContentConfig: rest.ContentConfig{
		GroupVersion: &corev1.SchemeGroupVersion, NegotiatedSerializer: scheme.Codecs.WithoutConversion(),
	}}
	OwnRetries(config)
	client, err := rest.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	whole := cache.NewListWatchFromClient(client, "pods", metav1.NamespaceAll, fields.Everything())
	streamed := Stream(whole, Kind{
		Client: client, Resource: "pods", New: func() runtime.Object { return &corev1.Pod{} },
		Strip: func(o any) (any, error) { return o, nil },
	})
	for name, inner := range map[string]cache.ListerWatcher{"whole": whole, "streamed": streamed} {
		p := New(inner, func(error) {})
		for verb, ask := range map[string]func(context.Context) error{
			"list": func(ctx context.Context) error {
				_, err := p.ListWithContext(ctx, metav1.ListOptions{})
				return err
			},
			"watch": func(ctx context.Context) error {
				w, err := p.WatchWithContext(ctx, metav1.ListOptions{})
				if err == nil {
					w.Stop()
				}
				return err
			},
		} {
			t.Run(name+" "+verb, func(t *testing.T) {
				requests.Store(0)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := ask(ctx); err != nil {
					t.Fatal(err)
				}
				if n := requests.Load(); n != failures+1 {
					t.Errorf("%d requests, want %d", n, failures+1)
				}
			})
		}
	}
	t.Run("too many", func(t *testing.T) { // an API server that has too much to do is obeyed
		code.Store(http.StatusTooManyRequests)
		defer code.Store(http.StatusServiceUnavailable)
		requests.Store(0)
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan error, 1)
		go func() {
			_, err := New(whole, func(error) {}).ListWithContext(ctx, metav1.ListOptions{})
			asked <- err
		}()
		for requests.Load() == 0 {
			goruntime.Gosched()
		}
		select {
		case err := <-asked:
			t.Errorf("%d requests, %v, want one and a long pause", requests.Load(), err)
		case <-time.After(3 * firstPause):
		}
		cancel()
		if err := <-asked; requests.Load() != 1 {
			t.Errorf("%d requests, %v", requests.Load(), err)
		}
	})
	t.Run("others", func(t *testing.T) {
		requests.Store(0)
		err := client.Get().Resource("pods").MaxRetries(0).Do(t.Context()).Error()
		if seconds, ok := apierrors.SuggestsClientDelay(err); !ok || seconds != 3600 {
			t.Errorf("error %v, delay %d", err, seconds)
		}
	})
}
