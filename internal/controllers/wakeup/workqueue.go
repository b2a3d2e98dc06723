// The controllers' work queues.

package wakeup

import (
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
)

// NewWorkQueue returns a controller's queue (controller.Options.NewQueue): the library's own,
// without its metrics. To compute them, the library polls every queue twice a second. In an idle
// cluster that would be most of MIC's wakeups. controller_runtime_reconcile_time_seconds and
// controller_runtime_active_workers still show how long controllers work and how busy they are.
func NewWorkQueue[T comparable](_ string, limiter workqueue.TypedRateLimiter[T]) workqueue.TypedRateLimitingInterface[T] {
	return priorityqueue.New("", func(o *priorityqueue.Opts[T]) { // a queue without a name has no metrics
		o.RateLimiter = limiter
	})
}
