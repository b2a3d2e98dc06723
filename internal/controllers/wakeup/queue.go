// Package wakeup provides a source of reconcile requests that one controller fills to wake another.
package wakeup

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Queue passes keys to a controller's work queue. It keeps keys that are added before the
// controller runs. The zero value is ready to use.
type Queue[T comparable] struct {
	mu      sync.Mutex
	q       workqueue.TypedRateLimitingInterface[T]
	pending map[T]bool
}

// Add queues the keys for the controller.
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

// Source connects the controller's work queue. It is a source.TypedFunc.
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

// Objects is a Queue of the names of objects. The zero value is ready to use.
type Objects struct{ Queue[reconcile.Request] }

// Add queues objects for the controller. They need not exist.
func (o *Objects) Add(names ...types.NamespacedName) {
	for _, name := range names {
		o.Queue.Add(reconcile.Request{NamespacedName: name})
	}
}
