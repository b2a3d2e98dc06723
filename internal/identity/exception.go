// Exceptions: pods that get plain IMDS.

package identity

import (
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
)

// Excepted returns the exception that gives the pod plain IMDS, nil when there is none. An
// exception counts only in its own namespace, whatever the Rules, and any one of its labels is
// enough. As in v1.8.17, the case of a label's key matters and that of its value does not. Of
// several exceptions, the first by name is returned.
func Excepted(pod Pod, exceptions []*v1.AzurePodIdentityException) *v1.AzurePodIdentityException {
	var found *v1.AzurePodIdentityException
	for _, e := range exceptions {
		if e == nil || e.Namespace != pod.Namespace || !e.DeletionTimestamp.IsZero() || !anyLabel(pod.Labels, e.Spec.PodLabels) {
			continue
		}
		if found == nil || strings.Compare(e.Name, found.Name) < 0 {
			found = e
		}
	}
	return found
}

func anyLabel(has, want map[string]string) bool {
	for k, v := range want {
		if got, ok := has[k]; ok && ascii.EqualFold(got, v) {
			return true
		}
	}
	return false
}
