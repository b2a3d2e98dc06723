// What a pod is told about its refusals, and when.

package assignedidentity

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podid-io/podid/internal/reason"
)

// patience is how long a pod or a binding may be older than the identity: one kubectl
// apply writes them one after the other.
const patience = 2 * time.Second

// tooEarly tells when to look again if one of the refusals may be only that the identity
// has not come yet; 0: there is nothing to wait for.
func tooEarly(pod *corev1.Pod, refusals []*reason.Refusal, now time.Time) time.Duration {
	for _, refusal := range refusals {
		if refusal.Reason != reason.IdentityMissing || refusal.Identity != nil {
			continue
		}
		youngest := pod.CreationTimestamp.Time
		if b := refusal.Binding; b != nil && b.CreationTimestamp.After(youngest) {
			youngest = b.CreationTimestamp.Time
		}
		if now.Sub(youngest) < patience {
			return patience
		}
	}
	return 0
}

// worthTelling leaves out what is no mistake: a pod whose binding has not come
// yet. A binding of another namespace is not this pod's business either, when it
// only happens to use the same selector; in a namespaced cluster that is common.
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
