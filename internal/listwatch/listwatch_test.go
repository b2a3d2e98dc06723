package listwatch

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

var pods = schema.GroupResource{Resource: "pods"}

// TestRepeat: which failures are retried, and how they are reported.
func TestRepeat(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		repeat bool
		note   string
	}{
		{"nobody answers", errors.New("connection refused"), true, "connection refused"},
		{"no right", apierrors.NewForbidden(pods, "", errors.New("no")), true, "may not list or watch: pods is forbidden"},
		{"kind missing", apierrors.NewNotFound(pods, ""), true, "not found"},
		{"too many", apierrors.NewTooManyRequests("later", 1), true, "later"},
		{"starting", apierrors.NewServiceUnavailable("starting"), true, "starting"},
		{"expired", apierrors.NewResourceExpired("old"), false, "old"},
		{"unknown option", apierrors.NewInvalid(schema.GroupKind{}, "", nil), false, "invalid"},
		{"version too large", apierrors.NewTimeoutError("too large", 1), false, "too large"},
		{"bad gateway", &apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusBadGateway, Message: "proxy"}}, true, "proxy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked, noted := 0, ""
				inner := &cache.ListWatch{ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
					if asked++; asked > 10 {
						return &corev1.PodList{}, nil
					}
					return nil, c.err
				}}
				began := time.Now()
				_, err := New(inner, func(err error) {
					if err != nil {
						noted = err.Error()
					}
				}).ListWithContext(t.Context(), metav1.ListOptions{})
				if !strings.Contains(noted, c.note) {
					t.Errorf("noted %q, want %q", noted, c.note)
				}
				if !c.repeat {
					if asked != 1 || !errors.Is(err, c.err) {
						t.Errorf("asked %d times, error %v", asked, err)
					}
					return
				}
				if err != nil || asked != 11 {
					t.Errorf("asked %d times, error %v", asked, err)
				}
				if took := time.Since(began); took > 14*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// TestReflector: an informer recovers from an outage of ten minutes within two seconds after the
// API server is back.
func TestReflector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		var current atomic.Pointer[watch.FakeWatcher]
		inner := &cache.ListWatch{
			ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
				if away.Load() {
					return nil, errors.New("connection refused")
				}
				return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
			},
			WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
				if away.Load() {
					return nil, errors.New("connection refused")
				}
				if o.SendInitialEvents != nil {
					return nil, apierrors.NewInvalid(schema.GroupKind{}, "", nil)
				}
				w := watch.NewFake()
				current.Store(w)
				return w, nil
			},
		}
		informer := cache.NewSharedIndexInformer(New(inner, func(error) {}), &corev1.Pod{}, 0, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			informer.RunWithContext(ctx)
		}()
		pass := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		pass(5 * time.Minute)
		away.Store(true)
		current.Swap(nil).Stop()
		pass(10 * time.Minute)
		away.Store(false)
		pass(2 * time.Second)
		w := current.Load()
		if w == nil {
			t.Fatal("does not watch")
		}
		w.Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", ResourceVersion: "2"}})
		pass(time.Second)
		if n := len(informer.GetStore().List()); n != 1 {
			t.Errorf("%d pods", n)
		}
		cancel()
		<-ended
	})
}

// TestEnd: an informer that cannot reach its API server ends with its context, and at once.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		inner := &cache.ListWatch{
			ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) { return nil, refused },
			WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) {
				return nil, refused
			},
		}
		var canceled time.Time
		time.AfterFunc(time.Minute, func() {
			canceled = time.Now()
			cancel()
		})
		cache.NewSharedIndexInformer(New(inner, func(error) {}), &corev1.Pod{}, 0, nil).RunWithContext(ctx)
		if late := time.Since(canceled); late != 0 {
			t.Errorf("ended %v after its context", late)
		}
	})
}

// TestNoWatchList: an API server that cannot stream the initial objects is not reported as a
// failure.
func TestNoWatchList(t *testing.T) {
	inner := &cache.ListWatch{WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) {
		return nil, apierrors.NewInvalid(schema.GroupKind{}, "", nil)
	}}
	for _, streaming := range []bool{true, false} {
		var noted error
		o := metav1.ListOptions{}
		if streaming {
			o.SendInitialEvents = new(true)
		}
		if _, err := New(inner, func(err error) { noted = err }).WatchWithContext(t.Context(), o); !apierrors.IsInvalid(err) {
			t.Errorf("streaming %t: error %v", streaming, err)
		}
		if (noted == nil) != streaming {
			t.Errorf("streaming %t: noted %v", streaming, noted)
		}
	}
}
