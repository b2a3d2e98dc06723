package compute

// Where the budget meets the requests: a policy that lets each call go when its time has come, and one that reads the
// budget off each answer.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// longestQueue is how long a call waits for its turn. One that would wait longer is refused as Azure would do it, and
// the caller's queue holds it. Polls always wait: their operation's bound is theirs.
const longestQueue = 10 * time.Second

// spentError refuses a call that was never sent. RetryAfter reads it as a 429.
type spentError struct{ wait time.Duration }

func (s *spentError) Error() string {
	return fmt.Sprintf("not sent: Azure's limits leave no room for another %s", s.wait.Round(time.Millisecond))
}

// laneOf says what a request counts as. Every URL but the group's own is an operation's; about no group it is a read.
func laneOf(req *http.Request, group Group) lane {
	switch {
	case req.Method != http.MethodGet:
		return writing
	case group.Name == "", strings.HasSuffix(strings.ToLower(req.URL.Path), strings.ToLower(group.ResourceID())):
		return reading
	default:
		return polling
	}
}

// tries counts the requests of one call.
type tries int

// gatePolicy holds a call until the budget has room for it.
type gatePolicy struct {
	budget *budget
	group  Group
}

// Do is policy.Policy.
func (g gatePolicy) Do(req *policy.Request) (*http.Response, error) {
	if err := g.wait(req.Raw().Context(), laneOf(req.Raw(), g.group)); err != nil {
		return nil, err
	}
	req.SetOperationValue(new(tries))
	return req.Next()
}

// wait returns when the call may go, or why it may not.
func (g gatePolicy) wait(ctx context.Context, l lane) error {
	longest := longestQueue
	if l == polling {
		longest = patchTimeout
	}
	for {
		promise, ok := g.budget.take(g.group, l, time.Now(), longest)
		if !ok {
			return &spentError{wait: promise.wait}
		}
		if promise.wait == 0 {
			return nil
		}
		if err := pause(ctx, promise.wait); err != nil {
			return err
		}
		if g.budget.kept(g.group, l, promise, time.Now()) {
			return nil
		}
	}
}

// learnPolicy sees every single request and its answer.
type learnPolicy struct {
	budget *budget
	group  Group
}

// Do is policy.Policy.
func (p learnPolicy) Do(req *policy.Request) (*http.Response, error) {
	l := laneOf(req.Raw(), p.group)
	var count *tries
	if req.OperationValue(&count) {
		if *count++; *count > 1 {
			p.budget.spend(p.group, l, time.Now())
		}
	}
	resp, err := req.Next()
	if resp != nil {
		p.budget.learn(p.group, l, wordOf(resp), time.Now())
	}
	return resp, err
}

// word is what an answer says about the budget.
type word struct {
	subscription *float64      // calls that are left to the subscription
	group        *float64      // calls that are left to the node group
	stop         time.Duration // how long to stay away, 0: not at all
	everybody    bool          // it is the whole subscription that shall
}

// wordOf reads an answer.
func wordOf(resp *http.Response) word {
	var w word
	for _, name := range subscriptionHeaders(resp.Request) {
		if left, err := strconv.ParseFloat(resp.Header.Get(name), 64); err == nil {
			w.subscription = lower(w.subscription, left)
		}
	}
	spentByAll := false
	for policy, left := range resourcePolicies(resp.Header) {
		if !ofOneResource(policy) {
			w.subscription = lower(w.subscription, left)
			spentByAll = spentByAll || left <= 0
			continue
		}
		w.group = lower(w.group, left)
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		w.stop = retryAfter(resp.Header)
		if w.stop == 0 {
			w.stop = defaultRetryAfter
		}
		w.everybody = spentByAll || ofSubscription(resp)
	}
	return w
}

// lower is the smaller of the two.
func lower(have *float64, left float64) *float64 {
	if have == nil || left < *have {
		return &left
	}
	return have
}

// subscriptionHeaders are where Resource Manager tells what is left: to this instance of it, and to all.
func subscriptionHeaders(req *http.Request) []string {
	if req != nil && req.Method != http.MethodGet {
		return []string{"X-Ms-Ratelimit-Remaining-Subscription-Writes", "X-Ms-Ratelimit-Remaining-Subscription-Global-Writes"}
	}
	return []string{"X-Ms-Ratelimit-Remaining-Subscription-Reads", "X-Ms-Ratelimit-Remaining-Subscription-Global-Reads"}
}

// mostPolicies bounds what is read of one header.
const mostPolicies = 16

// resourcePolicies reads what the compute service tells: Microsoft.Compute/NAME;COUNT, several with commas or in
// several headers.
func resourcePolicies(header http.Header) map[string]float64 {
	policies := map[string]float64{}
	for _, line := range header.Values("X-Ms-Ratelimit-Remaining-Resource") {
		for entry := range strings.SplitSeq(line, ",") {
			name, count, _ := strings.Cut(strings.TrimSpace(entry), ";")
			if left, err := strconv.ParseFloat(strings.TrimSpace(count), 64); err == nil && len(policies) < mostPolicies {
				policies[name] = left
			}
		}
	}
	return policies
}

// ofOneResource tells the compute service's limits of one machine or scale set from those that count for the whole
// subscription in a region. Microsoft documents names only for the latter: HighCostGet3Min, PutVM30Min.
func ofOneResource(policy string) bool {
	name := strings.ToLower(policy)
	return !strings.HasSuffix(name, "min") && !strings.Contains(name, "subscription")
}

// ofSubscription tells a 429 of Resource Manager's own, or of a limit that counts for the whole subscription, from one
// about a single resource. Resource Manager has a code for it and leaves nothing of the remaining calls (Microsoft's
// advice for telling them apart); the compute service names the limit that was hit in the details.
func ofSubscription(resp *http.Response) bool {
	for _, name := range subscriptionHeaders(resp.Request) {
		if resp.Header.Get(name) == "0" {
			return true
		}
	}
	body, err := runtime.Payload(resp)
	if err != nil {
		return false
	}
	var answer struct {
		Error armError `json:"error"`
		armError
	}
	if json.Unmarshal(body, &answer) != nil {
		return false
	}
	if answer.Error.Code == "" {
		answer.Error = answer.armError // the compute service has been seen without the envelope
	}
	if strings.HasSuffix(strings.ToLower(answer.Error.Code), "requeststhrottled") {
		return true // SubscriptionRequestsThrottled, TenantRequestsThrottled
	}
	for _, detail := range answer.Error.Details {
		if detail.Target != "" && !ofOneResource(detail.Target) {
			return true
		}
	}
	return false
}
