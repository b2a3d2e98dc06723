// Updates that Azure carries out and that this program did not begin.

package attachment

import (
	"time"

	"github.com/podid-io/podid/internal/assignment"
)

// arrive notes which identities may not be on the machines yet. An update that
// takes longer than any of ours may is not one: somebody upgrades the machines,
// and the identities have long been there. mu is held.
func (st *state) arrive(current assignment.Set, updating bool, now time.Time) {
	before := st.arriving
	st.arriving = nil
	if !updating {
		st.arrivingSince = time.Time{}
		return
	}
	if st.arrivingSince.IsZero() {
		st.arrivingSince = now
	}
	if now.Sub(st.arrivingSince) >= patchTimeout {
		return
	}
	for key, entry := range st.ledger {
		if foreign := entry.Foreign && !entry.Keep; !foreign && current.Has(key) && (before[key] || !st.current.Has(key)) {
			if st.arriving == nil {
				st.arriving = map[string]bool{}
			}
			st.arriving[key] = true
		}
	}
}

// soon tells when to look again, 0 for not: what is arriving is there in seconds,
// if Azure is asked.
func (st *state) soon() time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.arriving) == 0 {
		return 0
	}
	st.refresh = true
	return lookAgain
}

// begin notes that this program writes to the group.
func (st *state) begin() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.wrote = true
}

// predecessor tells how long to wait for an update that another process began and
// that Azure still carries out: its identities are in the ledger, but Azure may not
// list them yet, and refuses another update meanwhile. Only before the first update
// of this process: later ones would wait for each move of an autoscaler.
func (st *state) predecessor(now time.Time) time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.wrote || !st.updating || now.Sub(st.arrivingSince) >= patchTimeout {
		return 0
	}
	for key := range st.ledger {
		if st.unconfirmed(key) || st.arriving[key] {
			st.refresh = true
			return lookAgain
		}
	}
	return 0
}
