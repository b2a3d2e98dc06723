// Requests that Azure's limits refuse with 429. The buckets are those of package world.

package arm

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

// limit counts the request against the subscription's reads or writes.
func (h *Handler) limit(c *call) *failure {
	kind, bucket := "reads", h.world.Settings().Limits.Reads
	if c.r.Method != http.MethodGet {
		kind, bucket = "writes", h.world.Settings().Limits.Writes
	}
	left, wait := h.world.Take("arm/"+kind+"/"+world.Fold(c.subscription())+"/"+c.principal.PrincipalID, bucket)
	c.w.Header().Set("X-Ms-Ratelimit-Remaining-Subscription-"+kind, strconv.Itoa(left))
	if wait > 0 {
		return throttled(wait, subscriptionThrottled,
			"Number of '%s' requests for subscription '%s' actor '%s' exceeded. Please try again after '%d' seconds.",
			strings.TrimSuffix(kind, "s"), c.subscription(), c.principal.PrincipalID, int(wait/time.Second))
	}
	return nil
}

// limitCompute counts the write against the machine's own bucket.
func (h *Handler) limitCompute(c *call, view world.MachineView) *failure {
	if view.ID.Kind == world.VMSS {
		return h.limitMachine(c, view.ID, "UpdateVMScaleSet", h.world.Settings().Limits.ScaleSetWrites)
	}
	return h.limitMachine(c, view.ID, "UpdateVM", h.world.Settings().Limits.MachineWrites)
}

// limitMachine counts a request against one of a machine's own buckets, as the compute service
// does.
func (h *Handler) limitMachine(c *call, id world.MachineID, group string, bucket world.Bucket) *failure {
	left, wait := h.world.Take("compute/"+group+"/"+id.Key(), bucket)
	c.w.Header().Set("X-Ms-Ratelimit-Remaining-Resource", "Microsoft.Compute/"+group+"Resource;"+strconv.Itoa(left))
	if wait == 0 {
		return nil
	}
	f := throttled(wait, "OperationNotAllowed",
		"The server rejected the request because too many requests have been received for this subscription.")
	f.provider = true
	f.details = []errorBody{{
		Code: "TooManyRequests", Target: group + "Resource",
		Message: fmt.Sprintf(`{"operationGroup":"%sResource","allowedRequestCount":%d,"measuredRequestCount":%d}`,
			group, bucket.Size, bucket.Size+1),
	}}
	return f
}

// subscriptionThrottled is the code of Resource Manager's own 429.
const subscriptionThrottled = "SubscriptionRequestsThrottled"

func throttled(wait time.Duration, code, format string, args ...any) *failure {
	f := fail(http.StatusTooManyRequests, code, format, args...)
	f.header = map[string]string{"Retry-After": strconv.Itoa(int(wait / time.Second))}
	return f
}
