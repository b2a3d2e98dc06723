// What pods and pre-assignments ask of a node group.

package attachment

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podid-io/podid/internal/ledger"
)

// The wait for a burst of needs to end before an update: pods of one rollout arrive some
// milliseconds apart, and an update of a scale set takes 40 to 60 s.
const (
	burstGap      = 30 * time.Millisecond
	maxBurstDelay = 300 * time.Millisecond
)

// demand is what a node group is asked to have.
type demand struct {
	// needs are those of pods, by canonical resource ID.
	needs map[string]*need
	// firstAsked and lastAsked are the times of the oldest and the newest need that no update has
	// included yet.
	firstAsked, lastAsked time.Time
	// waitingSince is the time of the oldest need that no update has begun to include, also after the
	// burst has ended. begun is that of the update that has begun, until it is known to have
	// succeeded. planned is when the needs were last looked at.
	waitingSince, begun, planned time.Time
	// unneededSince is when an identity was last needed.
	unneededSince map[string]time.Time
	// preassignedBy are the AzureIdentity objects by which identities are pre-assigned, as of the
	// last plan.
	preassignedBy map[string][]types.NamespacedName
	// generation of the pre-assignments that were last reported on.
	generation uint64
}

// ask records that something is needed that the group does not have.
func (d *demand) ask(now time.Time) {
	d.lastAsked = now
	if d.waitingSince.IsZero() {
		d.waitingSince = now
	}
	if d.firstAsked.IsZero() {
		d.firstAsked = now
	}
}

// burstDelay returns how long to wait for a burst of needs to end. Once it is 0, the next update
// includes all of them.
func (d *demand) burstDelay(now time.Time) time.Duration {
	if d.firstAsked.IsZero() {
		return 0
	}
	delay := min(d.lastAsked.Add(burstGap).Sub(now), d.firstAsked.Add(maxBurstDelay).Sub(now))
	if delay <= 0 {
		d.firstAsked = time.Time{}
	}
	return max(delay, 0)
}

// included records that an update begins with the needs of the last plan.
func (d *demand) included() {
	d.begun, d.waitingSince = d.waitingSince, time.Time{}
	if d.lastAsked.After(d.planned) {
		d.waitingSince = d.lastAsked
	}
}

// failed records that pods still wait for the needs of the last update, or of the read after it.
func (d *demand) failed() {
	if !d.begun.IsZero() {
		d.waitingSince = d.begun
	}
}

// identities returns the AzureIdentity objects by which pods need an identity.
func (d *demand) identities(key string) (names []types.NamespacedName) {
	n, ok := d.needs[key]
	if !ok {
		return nil
	}
	for r := range n.requesters {
		if !slices.Contains(names, r.identity) {
			names = append(names, r.identity)
		}
	}
	return names
}

// entry returns the ledger entry of an identity that is about to be attached.
func (d *demand) entry(id string) ledger.Entry {
	key := ledger.Key(id)
	entry := ledger.Entry{ResourceID: id}
	if of := namespaces(d.identities(key), d.preassignedBy[key]); len(of) > 0 {
		entry.Namespace = slices.Min(of)
	}
	if n := d.needs[key]; n != nil {
		entry.ClientID = ledger.ClientIDFor(n.clientID)
	}
	return entry
}

// namespaces returns each namespace once.
func namespaces(identities ...[]types.NamespacedName) (all []string) {
	for _, name := range slices.Concat(identities...) {
		if !slices.Contains(all, name.Namespace) {
			all = append(all, name.Namespace)
		}
	}
	return all
}
