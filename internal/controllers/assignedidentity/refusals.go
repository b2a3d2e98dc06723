// Which refusals a pod gets an Event about, and when.

package assignedidentity

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/internal/reason"
)

// minAge is the minimum age of a pod or binding before a missing identity is reported. One
// kubectl apply creates the objects one after another.
const minAge = 2 * time.Second

// tooEarly returns when to look again if a refusal may only mean that the identity has not been
// created yet. It returns 0 if there is nothing to wait for.
func tooEarly(pod *corev1.Pod, refusals []*reason.Refusal, now time.Time) time.Duration {
	for _, refusal := range refusals {
		if refusal.Reason != reason.IdentityMissing || refusal.Identity != nil {
			continue
		}
		youngest := pod.CreationTimestamp.Time
		if b := refusal.Binding; b != nil && b.CreationTimestamp.After(youngest) {
			youngest = b.CreationTimestamp.Time
		}
		if now.Sub(youngest) < minAge {
			return minAge
		}
	}
	return 0
}

// worthTelling drops refusals that are not mistakes, such as a pod whose binding does not exist
// yet. It also drops a binding of another namespace that happens to use the same selector, which is
// common in a namespaced cluster.
func worthTelling(refusals []*reason.Refusal) []*reason.Refusal {
	return slices.DeleteFunc(slices.Clone(refusals), func(r *reason.Refusal) bool {
		switch r.Reason {
		case reason.NoLabel, reason.NoBinding, reason.OtherNamespace:
			return true
		default:
			return false
		}
	})
}
