// Package wakeup is a source of reconcile requests that are plain calls, by which one controller
// wakes another.
package wakeup

import (
	"context"
	"sync"

	"k8s.io/client-go/util/workqueue"
)

// Queue hands keys to a controller's work queue. Keys that come before the
// controller runs are kept for it; the zero value is ready to use.
type Queue[T comparable] struct {
	mu      sync.Mutex
	q       workqueue.TypedRateLimitingInterface[T]
	pending map[T]bool
}

// Add makes the controller look at these keys.
func (k *Queue[T]) Add(keys ...T) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range keys {
		if k.q != nil {
			k.q.Add(key)
			continue
		}
		if k.pending == nil {
			k.pending = map[T]bool{}
		}
		k.pending[key] = true
	}
}

// Source is what a controller watches: a source.TypedFunc.
func (k *Queue[T]) Source(_ context.Context, q workqueue.TypedRateLimitingInterface[T]) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.q = q
	for key := range k.pending {
		q.Add(key)
	}
	k.pending = nil
	return nil
}
