// The options of all controllers' work queues: workers, retries, no metrics.

package wakeup

import (
	"time"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
)

// RetryMax is the longest pause after an error of the API server. The library's default is 16
// minutes, far longer than a typical outage.
const RetryMax = 15 * time.Second

// Options returns the options of a controller that handles this many keys at once. After an error
// it retries the key with exponential backoff from retryFirst to RetryMax.
func Options[T comparable](workers int, retryFirst time.Duration) controller.TypedOptions[T] {
	return controller.TypedOptions[T]{
		MaxConcurrentReconciles: workers,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[T](retryFirst, RetryMax),
		NewQueue:                NewWorkQueue[T],
	}
}

// NewWorkQueue returns a controller's queue (controller.Options.NewQueue): the library's own,
// without its metrics. To compute them, the library polls every queue twice a second. In an idle
// cluster that would be most of MIC's wakeups. controller_runtime_reconcile_time_seconds and
// controller_runtime_active_workers still show how long controllers work and how busy they are.
func NewWorkQueue[T comparable](_ string, limiter workqueue.TypedRateLimiter[T]) workqueue.TypedRateLimitingInterface[T] {
	return priorityqueue.New("", func(o *priorityqueue.Opts[T]) { // a queue without a name has no metrics
		o.RateLimiter = limiter
	})
}
