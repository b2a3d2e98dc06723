// What Azure has, as far as podid knows.

package attachment

import (
	"fmt"
	"maps"
	"time"

	"golang.org/x/time/rate"

	"github.com/podid-io/podid/internal/assignment"
	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger"
	"github.com/podid-io/podid/internal/reason"
)

// The comparisons with Azure that are made on request. Azure allows twelve reads of a machine a
// minute after 36 at once; half of that is for updates.
const (
	comparisonEvery = 10 * time.Second
	maxComparisons  = 12
)

// azureView is what Azure has.
type azureView struct {
	// current is what the group has: nil until Azure was read, kept up to date by every update.
	current assignment.Set
	// detaching are identities that the update under way detaches.
	detaching map[string]bool
	// unread are identities that were attached since Azure was read.
	unread map[string]bool
	// stale are listed identities that have to be detached and attached again, because what is
	// behind them was deleted or recreated.
	stale     map[string]bool
	clientIDs clientIDs
	external  externalUpdate
	// refresh asks for Azure to be read before anything else is done; comparisons limits how often.
	refresh     bool
	comparisons *rate.Limiter
}

// clientIDs are what is known about client IDs.
type clientIDs struct {
	// listed by Azure with the group, by canonical resource ID; also those of needed identities
	// that it listed before.
	listed map[string]string
	// cluster are those of the cluster's own identities.
	cluster map[string]bool
	// answers to the question which of two client IDs is right.
	answers map[mismatch]answer
}

// mismatch is an AzureIdentity with another client ID than the node group lists: either the
// AzureIdentity is wrong, or it was corrected after the identity was recreated.
type mismatch struct{ key, declared, listed string }

// answer is the result of looking up a mismatch.
type answer int

const (
	notAsked  answer = iota // Azure was not asked
	unknown                 // Azure was asked and did not answer
	confirmed               // the node group has the right client ID
)

// known reports whether Azure has been read and need not be read again.
func (a *azureView) known() bool { return a.current != nil && !a.refresh }

// attached reports whether the machines have the identity, podid's or another writer's.
func (a *azureView) attached(key string) bool {
	return a.current.Has(key) && !a.detaching[key] && !a.external.inFlight[key]
}

// compareAgain asks for Azure to be read, and reports whether that is within the limit.
func (a *azureView) compareAgain(now time.Time) bool {
	if !a.comparisons.AllowN(now, 1) {
		return false
	}
	a.refresh = true
	return true
}

// refusal returns why pods do not get an identity by that AzureIdentity, zero if nothing is known
// against it. pending reports that Azure has yet to be asked which of two client IDs is right.
func (a *azureView) refusal(key string, r requester) (why assignment.State, pending bool) {
	listed := a.clientIDs.listed[key]
	if listed == "" || a.stale[key] {
		return assignment.State{}, false
	}
	if !r.named && a.clientIDs.cluster[listed] {
		return assignment.Refused(reason.ClusterIdentity, fmt.Sprintf(
			"the resource ID of AzureIdentity %s is that of an identity of the cluster itself "+
				"(the kubelet's, or MIC's), which pods do not get: use another identity, name this one in an AzureIdentityPolicy, "+
				"or run MIC and NMI with --allow-cluster-identities", r.identity)), false
	}
	if r.clientID == "" || r.clientID == listed {
		return assignment.State{}, false
	}
	if a.clientIDs.answers[mismatch{key, r.clientID, listed}] == notAsked {
		return assignment.State{}, true
	}
	return assignment.Refused(reason.ClientIDMismatch, fmt.Sprintf(
		"spec.clientID of AzureIdentity %s is not the client ID that Azure has for its spec.resourceID (%s): "+
			"correct spec.clientID or spec.resourceID; "+
			"az identity show --ids <resourceID> --query clientId prints the right one",
		r.identity, shortClientID(listed))), false
}

// shortClientID is the beginning of a client ID: objects and logs have no whole ones.
func shortClientID(id string) string {
	const length = 8
	if len(id) <= length {
		return id
	}
	return id[:length] + "…"
}

// recordClientIDs replaces the client IDs by those listed now. It keeps those of identities that
// pods need and that the group no longer has: otherwise an AzureIdentity with a wrong client ID
// would have its identity attached again and again.
func (a *azureView) recordClientIDs(now map[string]string, needed map[string]*need) {
	for key, clientID := range a.clientIDs.listed {
		if _, listed := now[key]; !listed && !a.current.Has(key) && needed[key] != nil {
			now[key] = clientID
		}
	}
	a.clientIDs.listed = now
	clear(a.unread)
}

// externalUpdate is an update that Azure carries out and that this process did not begin.
type externalUpdate struct {
	// running is whether there was one when Azure was last read, and since is when it was first
	// seen.
	running bool
	since   time.Time
	// inFlight are ledgered identities that Azure lists already, because another MIC began to
	// attach them and died. The machines may not have them yet.
	inFlight map[string]bool
	// ignored is set once this process has begun an update of its own.
	ignored bool
}

// observe records whether an update is running, and what it attaches. One that takes longer than
// any of podid's may is an upgrade of the machines, which have long had the identities.
func (u *externalUpdate) observe(
	running bool, now time.Time, before, current assignment.Set, entries map[string]ledger.Entry,
) {
	known := u.inFlight
	u.inFlight, u.running = nil, running
	if !running {
		u.since = time.Time{}
		return
	}
	if u.since.IsZero() {
		u.since = now
	}
	if u.tooLong(now) {
		return
	}
	for key, entry := range entries {
		verified := entry.Foreign && !entry.Keep
		if !verified && current.Has(key) && (known[key] || !before.Has(key)) {
			if u.inFlight == nil {
				u.inFlight = map[string]bool{}
			}
			u.inFlight[key] = true
		}
	}
}

func (u *externalUpdate) tooLong(now time.Time) bool { return now.Sub(u.since) >= patchTimeout }

// end records that Azure carried out an update of this process, so no other one is running.
func (u *externalUpdate) end() { u.inFlight, u.since = nil, time.Time{} }

// pollDelay returns when to read Azure again, 0 for not: identities in flight arrive in seconds.
func (a *azureView) pollDelay() time.Duration {
	if len(a.external.inFlight) == 0 {
		return 0
	}
	a.refresh = true
	return pollInterval
}

// predecessorDelay returns how long to wait for an update that another MIC began and that Azure is
// still carrying out. Its identities are in the ledger, but Azure may not list them yet, and
// refuses other updates meanwhile. This applies only before the first update of this process:
// later, MIC would wait for every step of an autoscaler.
func (a *azureView) predecessorDelay(l *groupLedger, now time.Time) time.Duration {
	if a.external.ignored || !a.external.running || a.external.tooLong(now) {
		return 0
	}
	for key := range l.entries {
		if l.unconfirmed(key, a.current) || a.external.inFlight[key] {
			a.refresh = true
			return pollInterval
		}
	}
	return 0
}

// detached records that an identity is no longer on the group.
func (a *azureView) detached(key string) {
	if a.stale[key] {
		delete(a.clientIDs.listed, key) // the recreated one may have another
	}
	delete(a.current, key)
	delete(a.detaching, key)
	delete(a.stale, key)
}

// listedClientIDs returns the client IDs that Azure lists, by canonical resource ID.
func listedClientIDs(have compute.Identities) map[string]string {
	listed := map[string]string{}
	for id, clientID := range have.ClientIDs {
		if clientID != "" {
			listed[ledger.Key(id)] = canonical(clientID)
		}
	}
	return listed
}

// forgetAnswers removes the answers that no longer apply.
func (c *clientIDs) forgetAnswers(needed map[string]*need) {
	maps.DeleteFunc(c.answers, func(m mismatch, _ answer) bool {
		return needed[m.key] == nil || c.listed[m.key] != m.listed
	})
}
