// Package listwatch makes informers recover soon after the API server does.
//
// A reflector of client-go backs off with every request that fails, up to a minute, even if the API
// server is back. This package retries requests that may succeed later within the call, at least
// every two seconds, so that the reflector does not see the failure. OwnRetries keeps client-go
// from waiting longer.
package listwatch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// The backoff between two attempts. Five kinds in two replicas with a request every two seconds are
// a negligible load for an API server that is starting.
const (
	firstPause = 100 * time.Millisecond
	mostPause  = 2 * time.Second
)

// Patient retries the lists and watches of another ListerWatcher.
type Patient struct {
	inner  cache.ListerWatcherWithContext
	note   func(error)
	absent runtime.Object
}

// Optional returns p for a kind that the API server may not have because its CRD was never
// installed. A list then returns a copy of empty, and a watch starts once the kind exists.
func (p *Patient) Optional(empty runtime.Object) *Patient {
	return &Patient{inner: p.inner, note: p.note, absent: empty}
}

// New returns a Patient around inner. It calls note with the result of each request; the error of a
// refused request says what to do about it.
func New(inner cache.ListerWatcher, note func(error)) *Patient {
	return &Patient{inner: cache.ToListerWatcherWithContext(inner), note: note}
}

// ListWithContext implements cache.ListerWatcherWithContext.
func (p *Patient) ListWithContext(ctx context.Context, o metav1.ListOptions) (list runtime.Object, err error) {
	requests := withOwnRetries(ctx)
	err = p.repeat(ctx, p.note, func() error {
		list, err = p.inner.ListWithContext(requests, o)
		if p.absent != nil && apierrors.IsNotFound(err) {
			list, err = p.absent.DeepCopyObject(), nil
		}
		return err
	})
	return list, err
}

// WatchWithContext implements cache.ListerWatcherWithContext.
func (p *Patient) WatchWithContext(ctx context.Context, o metav1.ListOptions) (w watch.Interface, err error) {
	var notThere error
	note := func(err error) {
		// An API server without WatchList, such as Kubernetes 1.25 to 1.31, refuses to stream the initial
		// objects. This is no failure: the reflector lists them then.
		if o.SendInitialEvents == nil || !apierrors.IsInvalid(err) {
			p.note(err)
		}
	}
	requests := withOwnRetries(ctx)
	err = p.repeat(ctx, note, func() error {
		w, err = p.inner.WatchWithContext(requests, o)
		if p.absent != nil && apierrors.IsNotFound(err) && o.SendInitialEvents != nil && *o.SendInitialEvents {
			notThere = err // the reflector lists instead
			return nil
		}
		return err
	})
	if notThere != nil {
		return nil, notThere
	}
	return w, err
}

// List implements cache.ListerWatcher.
func (p *Patient) List(o metav1.ListOptions) (runtime.Object, error) {
	return p.ListWithContext(context.Background(), o)
}

// Watch implements cache.ListerWatcher.
func (p *Patient) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return p.WatchWithContext(context.Background(), o)
}

// repeat retries ask until it succeeds, fails permanently, or the context ends. It then returns the
// error of the context, not of the request: after an error such as "connection refused" a reflector
// waits, whether its context has ended or not.
func (p *Patient) repeat(ctx context.Context, note func(error), ask func() error) error {
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		err := ask()
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if p.absent != nil && apierrors.IsNotFound(err) {
			p.note(nil)
		} else {
			note(explain(err))
		}
		if err == nil || !passes(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause - rand.N(pause/4)): //nolint:gosec // only to spread the requests
		}
	}
}

// passes reports whether the same request may succeed later. It excludes errors that the reflector
// handles with a different request, such as an expired version.
func passes(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true // no answer
	}
	switch status.Status().Code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable:
		return true
	}
	return false
}

// explain adds instructions to errors that an operator has to fix.
func explain(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return fmt.Errorf("may not list or watch: %w: grant it, as the chart's roles do", err)
	}
	return err
}

var _ cache.ListerWatcherWithContext = (*Patient)(nil)
