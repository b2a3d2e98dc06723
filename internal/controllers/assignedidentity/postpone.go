// Bursts of pods: which writes are postponed, and what is measured.

package assignedidentity

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
)

// Limits of progress writes. An object in state Created only informs people: NMI waits because of
// the binding, with or without the object. In a burst, only a limited number of such objects are
// written. The others are written once they have more to report, which halves the writes.
const (
	progressPerSecond, progressBurst = 5, 20
	// progressRetry is when a postponed object is tried again, plus up to as much jitter.
	progressRetry = 5 * time.Second
)

// postpone removes the writes from a plan that can wait, and returns when to look again.
func (c *Controller) postpone(plan assignment.PodPlan) (assignment.PodPlan, time.Duration) {
	later := time.Duration(0)
	plan.Create = slices.DeleteFunc(plan.Create, func(assigned *v1.AzureAssignedIdentity) bool {
		onItsWay := assigned.Status.Status == v1.StateCreated && assigned.Status.Reason == ""
		if !onItsWay || c.progress.Allow() {
			return false
		}
		later = progressRetry + rand.N(progressRetry) //nolint:gosec // jitter
		return true
	})
	return plan, later
}

// waiting records since when pods have been without an identity, for the metric.
type waiting struct {
	mu    sync.Mutex
	since map[types.NamespacedName]time.Time
}

// note records whether a pod is without an identity now, and returns since when it has been.
func (w *waiting) note(pod types.NamespacedName, without bool, now time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	since, known := w.since[pod]
	if !known {
		since = now
	}
	if without {
		w.since[pod] = since
	} else {
		delete(w.since, pod)
	}
	return since
}
