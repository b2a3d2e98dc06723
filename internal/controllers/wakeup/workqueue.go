// The controllers' work queues.

package wakeup

import (
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
)

// NewWorkQueue makes a controller's queue (controller.Options.NewQueue): the library's
// own, but without its metrics. For those it looks at every queue twice a second, for
// as long as the program runs, and in a cluster in which nothing happens that is most
// of what wakes MIC up. How long controllers work and how busy they are is measured
// by controller_runtime_reconcile_time_seconds and controller_runtime_active_workers.
func NewWorkQueue[T comparable](_ string, limiter workqueue.TypedRateLimiter[T]) workqueue.TypedRateLimitingInterface[T] {
	return priorityqueue.New("", func(o *priorityqueue.Opts[T]) { // a queue without a name has no metrics
		o.RateLimiter = limiter
	})
}
