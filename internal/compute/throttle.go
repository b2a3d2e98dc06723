// Applying Azure's limits to requests: one policy delays each call until limits.go has room for it,
// one reads each answer, such as a 429, and records it there. How long a whole node group is left
// alone is decided in controllers/attachment/trouble.go.

package compute

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/podid-io/podid/internal/ascii"
)

// longestQueue is the longest time a call waits for its turn. A call that would wait longer is
// refused as Azure would do it, and the caller's queue retries it. Polls always wait, bounded by
// the timeout of their operation.
const longestQueue = 10 * time.Second

// notSentError rejects a call that was never sent. RetryAfter treats it as a 429.
type notSentError struct{ wait time.Duration }

func (s *notSentError) Error() string {
	return fmt.Sprintf("not sent: Azure's limits leave no room for another %s", s.wait.Round(time.Millisecond))
}

// classOf returns the class that a request counts toward. Every URL except the group's own belongs
// to an operation. Without a group it is a read.
func classOf(req *http.Request, group Group) class {
	switch {
	case req.Method != http.MethodGet:
		return writing
	case group.Name == "", strings.HasSuffix(ascii.ToLower(req.URL.Path), ascii.ToLower(group.ResourceID())):
		return reading
	default:
		return polling
	}
}

// gatePolicy delays a call until the limits have room for it.
type gatePolicy struct {
	limits *limits
	group  Group
}

// Do implements policy.Policy.
func (g gatePolicy) Do(req *policy.Request) (*http.Response, error) {
	if err := g.wait(req.Raw().Context(), classOf(req.Raw(), g.group)); err != nil {
		return nil, err
	}
	return req.Next()
}

// wait returns when the call may be sent, or an error if it may not.
func (g gatePolicy) wait(ctx context.Context, c class) error {
	longest := longestQueue
	if c == polling {
		longest = patchTimeout
	}
	for {
		wait, ok := g.limits.reserve(g.group, c, time.Now(), longest)
		if !ok {
			return &notSentError{wait: wait}
		}
		if wait == 0 {
			return nil
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		if !g.limits.closed(g.group, c, time.Now()) {
			return nil
		}
	}
}

// learnPolicy updates the limits from the answer to every single request.
type learnPolicy struct {
	limits *limits
	group  Group
}

// Do implements policy.Policy.
func (p learnPolicy) Do(req *policy.Request) (*http.Response, error) {
	resp, err := req.Next()
	if resp != nil {
		p.limits.learn(p.group, classOf(req.Raw(), p.group), readAnswer(resp), time.Now())
	}
	return resp, err
}

// answered is what an answer says about the limits.
type answered struct {
	left       *int          // calls that Resource Manager still allows the subscription
	retryAfter time.Duration // requested pause, 0: none
	scope      scope         // of retryAfter
}

// scope is the range that a 429 applies to.
type scope int

const (
	oneGroup          scope = iota // the compute service refuses this class of call about the node group
	wholeRegion                    // the compute service refuses this class of call in the subscription
	wholeSubscription              // Resource Manager refuses all reads, or all writes, in the subscription
)

// readAnswer returns what an answer says about the limits.
func readAnswer(resp *http.Response) answered {
	var said answered
	for _, name := range subscriptionHeaders(resp.Request) {
		if left, err := strconv.Atoi(resp.Header.Get(name)); err == nil && (said.left == nil || left < *said.left) {
			said.left = &left
		}
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		said.retryAfter, said.scope = retryAfter(resp.Header), scopeOf(resp, said.left)
		if said.retryAfter == 0 {
			said.retryAfter = defaultRetryAfter
		}
	}
	return said
}

// subscriptionHeaders returns the headers with the remaining calls, for this instance of Resource
// Manager and for all.
func subscriptionHeaders(req *http.Request) []string {
	if req != nil && req.Method != http.MethodGet {
		return []string{"X-Ms-Ratelimit-Remaining-Subscription-Writes", "X-Ms-Ratelimit-Remaining-Subscription-Global-Writes"}
	}
	return []string{"X-Ms-Ratelimit-Remaining-Subscription-Reads", "X-Ms-Ratelimit-Remaining-Subscription-Global-Reads"}
}

// ofRegion reports whether a limit of the compute service counts for the whole subscription in a
// region, not for one VM or scale set. Microsoft documents names only for the former:
// HighCostGet3Min, PutVM30Min.
func ofRegion(target string) bool {
	name := ascii.ToLower(target)
	return strings.HasSuffix(name, "min") || strings.Contains(name, "subscription")
}

// scopeOf returns the scope of a 429. As Microsoft advises, Resource Manager's own 429 is
// recognized by its code and by zero remaining calls. The compute service names the limit that was
// hit in the details.
func scopeOf(resp *http.Response, left *int) scope {
	refusal := refusedWith(resp)
	switch {
	case strings.HasSuffix(ascii.ToLower(refusal.Code), "requeststhrottled"), // of the subscription, or the tenant
		left != nil && *left <= 0:
		return wholeSubscription
	case slices.ContainsFunc(refusal.Details, func(detail armError) bool { return ofRegion(detail.Target) }):
		return wholeRegion
	default:
		return oneGroup
	}
}

// refusedWith returns the error in an answer, and keeps its body readable.
func refusedWith(resp *http.Response) armError {
	var answer struct {
		Error armError `json:"error"`
		armError
	}
	body, err := runtime.Payload(resp)
	if err != nil || json.Unmarshal(body, &answer) != nil {
		return armError{}
	}
	if answer.Error.Code == "" {
		return answer.armError // the compute service sometimes omits the envelope
	}
	return answer.Error
}
