package compute

// Where the budget meets the requests: a policy that lets each call go when its time has come, and one that reads the
// budget off each answer.

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
	subscription *float64      // calls that Resource Manager leaves to the subscription
	region       *float64      // calls of this kind that the compute service leaves to the subscription
	group        *float64      // calls of this kind that it leaves to the node group
	stop         time.Duration // how long to stay away, 0: not at all
	who          scope         // shall stay away
}

// scope is whom a 429 is about.
type scope int

const (
	thisGroup    scope = iota // the compute service refuses this kind of call about the node group
	thisKind                  // the compute service refuses this kind of call in the subscription
	subscription              // Resource Manager refuses all reads, or all writes, in the subscription
)

// wordOf reads an answer.
func wordOf(resp *http.Response) word {
	var w word
	for _, name := range subscriptionHeaders(resp.Request) {
		if left, err := strconv.ParseFloat(resp.Header.Get(name), 64); err == nil {
			w.subscription = lower(w.subscription, left)
		}
	}
	for policy, left := range resourcePolicies(resp.Header) {
		if ofOneResource(policy) {
			w.group = lower(w.group, left)
		} else {
			w.region = lower(w.region, left)
		}
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		w.stop = retryAfter(resp.Header)
		if w.stop == 0 {
			w.stop = defaultRetryAfter
		}
		w.who = scopeOf(resp, w)
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

// scopeOf tells whom a 429 is about. Resource Manager has a code for its own and leaves nothing of the remaining calls
// (Microsoft's advice for telling the two apart); the compute service names the limit that was hit in the details.
func scopeOf(resp *http.Response, w word) scope {
	answer := refusedWith(resp)
	switch {
	case strings.HasSuffix(strings.ToLower(answer.Code), "requeststhrottled"), // of the subscription, or the tenant
		w.subscription != nil && *w.subscription <= 0:
		return subscription
	case w.region != nil && *w.region <= 0, slices.ContainsFunc(answer.Details, func(detail armError) bool {
		return detail.Target != "" && !ofOneResource(detail.Target)
	}):
		return thisKind
	default:
		return thisGroup
	}
}

// refusedWith reads the error of an answer, and leaves the answer as it is.
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
		return answer.armError // the compute service has been seen without the envelope
	}
	return answer.Error
}
