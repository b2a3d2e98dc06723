// Quarantine and backoff: what Azure refused of a node group or of single identities, and when it
// is tried again.

package attachment

import (
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/reason"
)

// The pauses. A refused identity is retried after 30 s, doubling to ten minutes (and at once when
// its AzureIdentity changes); each try is an update of the group, of which a scale set accepts four
// a minute. A group that cannot be updated at all is retried after the retry interval, doubling to
// a minute.
const (
	quarantineFirst = 30 * time.Second
	quarantineMax   = 10 * time.Minute
	backOffMax      = time.Minute
	// conflictMax bounds the pause while another operation runs on the group: a scale set accepts 4
	// writes a minute, and refused ones count.
	conflictMax = 15 * time.Second
	// throttleJitter spreads groups that Azure throttled until the same second. It is short because
	// pods are waiting.
	throttleJitter = 250 * time.Millisecond
	// Failures are reported to pods after complainAfter in a row, because most pass with one retry,
	// and at the latest after complainLatest, however long each try takes.
	complainAfter  = 3
	complainLatest = time.Minute
)

// The limit of retries that changes of an AzureIdentity cause while its identity is in quarantine.
// Each is an update of the group, for which others have to wait.
const (
	retryEvery = 20 * time.Second
	maxRetries = 3
)

// trouble is what Azure refused.
type trouble struct {
	quarantined map[string]*quarantine
	// blockers are identities of the group because of which Azure refused an update.
	blockers map[string]bool
	// remainders are parts of a refused request that have not been sent yet.
	remainders []assignment.Request

	// group is why the whole group cannot be updated: podid may not, or it does not exist.
	// complaint is the failure of an update that should have passed by now.
	group     assignment.State
	complaint string
	// failures in a row, the time of the first, and until when Azure is left alone because of them.
	failures                int
	firstFailure, notBefore time.Time
}

// quarantine is an identity that Azure refused.
type quarantine struct {
	retry      time.Time
	times      int // refusals in a row
	state      assignment.State
	identities []types.NamespacedName // the AzureIdentity objects, for the metric
	// until is how long it is remembered while nothing needs it: otherwise pods that come and go
	// would get a bad identity into the updates of others.
	until   time.Time
	retries *rate.Limiter
}

// waiting reports whether an identity is in quarantine and not to be retried yet.
func (t *trouble) waiting(key string, now time.Time) bool {
	q := t.quarantined[key]
	return q != nil && q.retry.After(now)
}

// refuse puts an identity into quarantine, and returns when it is retried.
func (t *trouble) refuse(
	key string, identities []types.NamespacedName, why assignment.State, now time.Time,
) (retryAfter time.Duration) {
	q := t.quarantined[key]
	if q == nil {
		q = &quarantine{retries: rate.NewLimiter(rate.Every(retryEvery), maxRetries)}
		t.quarantined[key] = q
	}
	why.Status = v1.StateCreated
	q.identities, q.state = identities, why
	q.times++
	retryAfter = exponential(quarantineFirst, q.times, quarantineMax)
	q.retry, q.until = now.Add(retryAfter), now.Add(quarantineMax)
	return retryAfter
}

// retryNow makes an identity in quarantine retried at once, and reports whether that is within the
// limit.
func (t *trouble) retryNow(key string, now time.Time) bool {
	q, ok := t.quarantined[key]
	if !ok || !q.retries.AllowN(now, 1) {
		return false
	}
	q.retry = now
	return true
}

// release ends a quarantine, and returns its AzureIdentity objects.
func (t *trouble) release(key string) (lifted []types.NamespacedName) {
	q, ok := t.quarantined[key]
	if !ok {
		return nil
	}
	delete(t.quarantined, key)
	return q.identities
}

// recovered records an update that succeeded.
func (t *trouble) recovered() {
	t.failures, t.notBefore, t.group, t.complaint = 0, time.Time{}, assignment.State{}, ""
	clear(t.blockers)
}

// failed records a failure, and returns how long to leave Azure alone about the group.
func (t *trouble) failed(cause error, retryInterval time.Duration, now time.Time) (pause time.Duration) {
	if t.failures++; t.failures == 1 {
		t.firstFailure = now
	}
	pause, throttled := compute.RetryAfter(cause)
	if throttled {
		pause += rand.N(throttleJitter) //nolint:gosec // jitter
	} else { // with 50 % jitter, so that groups that failed together do not retry together
		pause = exponential(retryInterval, t.failures, backOffMax)
		pause = pause/2 + rand.N(pause/2+1) //nolint:gosec // jitter
		if compute.IsConflict(cause) && !compute.IsLocked(cause) {
			pause = min(pause, conflictMax)
		}
	}
	t.notBefore = now.Add(pause)
	t.explain(cause, now)
	return pause
}

// explain sets the state that pods get because of a failure.
func (t *trouble) explain(cause error, now time.Time) {
	blocked, isBlocked := errors.AsType[*blockedError](cause)
	switch {
	case isBlocked:
		t.group = assignment.Refused(reason.GroupBlocked, blocked.remedy())
	case compute.IsForbidden(cause):
		t.group = assignment.Refused(reason.GroupForbidden, compute.AboutGroup(cause))
	case compute.IsLocked(cause):
		t.group = assignment.Refused(reason.GroupLocked, compute.AboutGroup(cause))
	case t.complaint == "" && (t.failures >= complainAfter || now.Sub(t.firstFailure) >= complainLatest):
		t.complaint = compute.AboutGroup(cause) + "; podid keeps trying"
	}
}

// takeRemainders returns the remainders, and forgets them.
func (t *trouble) takeRemainders() []assignment.Request {
	remainders := t.remainders
	t.remainders = nil
	return remainders
}

// keepRemainders keeps the remainders among requests that were not sent, for the next update.
func (t *trouble) keepRemainders(unsent []request) {
	for _, next := range unsent {
		if next.remainder {
			t.remainders = append(t.remainders, next.Request)
		}
	}
}

// exponential returns first, doubled for every time after the first, at most limit.
func exponential(first time.Duration, times int, limit time.Duration) time.Duration {
	pause := first
	for range times - 1 {
		if pause *= 2; pause >= limit {
			return limit
		}
	}
	return min(pause, limit)
}
