// Floods of pods: what is written late, and what is measured.

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

// An object that says nothing but "on its way" is for people to look at: NMI
// waits for the binding's sake, with it or without. Of a flood only so many are
// written, the others once they have more to say; that halves the writes.
const (
	progressPerSecond, progressBurst = 5, 20
	// progressRetry is when one that was not written is tried again, to which
	// chance adds as much.
	progressRetry = 5 * time.Second
)

// postpone takes out of a plan what is not worth a write now, and tells when to
// look again.
func (r *Reconciler) postpone(plan assignment.PodPlan) (assignment.PodPlan, time.Duration) {
	now, later := r.now(), time.Duration(0)
	plan.Create = slices.DeleteFunc(plan.Create, func(assigned *v1.AzureAssignedIdentity) bool {
		onItsWay := assigned.Status.Status == v1.StateCreated && assigned.Status.Reason == ""
		if !onItsWay || r.progress.AllowN(now, 1) {
			return false
		}
		later = progressRetry + rand.N(progressRetry) //nolint:gosec // jitter
		return true
	})
	return plan, later
}

// waiting remembers since when pods have been without an identity, for the metric.
type waiting struct {
	mu    sync.Mutex
	since map[types.NamespacedName]time.Time
}

// note takes whether a pod is without an identity now, and returns since when it
// has been.
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
