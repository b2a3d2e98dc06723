// The start: all pods are placed before anything is written or attached.

package assignedidentity

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// backlog holds the pods that were there when the controller began and have not
// been placed yet, and those with something to write once all are.
type backlog struct {
	mu    sync.Mutex
	begun bool
	over  bool
	// early are pods placed before it was known which there are, open those
	// that are still to be placed.
	early, open map[types.NamespacedName]bool
	parked      []types.NamespacedName
}

// begin names the pods there are, and has those looked at that have not been yet:
// one that goes between the listing and the first event would keep all others
// waiting for good.
func (b *backlog) begin(pods []types.NamespacedName, caughtUp func(), kick func(...types.NamespacedName)) {
	b.mu.Lock()
	b.begun, b.open = true, map[types.NamespacedName]bool{}
	var open []types.NamespacedName
	for _, pod := range pods {
		if !b.early[pod] {
			b.open[pod] = true
			open = append(open, pod)
		}
	}
	b.early = nil
	parked, over := b.end()
	b.mu.Unlock()
	kick(open...)
	if over {
		caughtUp()
		kick(parked...)
	}
}

// placed says that a pod's needs are known. The last one ends the backlog.
func (b *backlog) placed(pod types.NamespacedName, caughtUp func(), kick func(...types.NamespacedName)) {
	b.mu.Lock()
	if b.over {
		b.mu.Unlock()
		return
	}
	if !b.begun {
		if b.early == nil {
			b.early = map[types.NamespacedName]bool{}
		}
		b.early[pod] = true
	}
	delete(b.open, pod)
	parked, over := b.end()
	b.mu.Unlock()
	if over {
		caughtUp()
		kick(parked...)
	}
}

// end returns what was parked once the backlog is over. mu is held.
func (b *backlog) end() (parked []types.NamespacedName, over bool) {
	if b.over || !b.begun || len(b.open) > 0 {
		return nil, false
	}
	parked, b.parked, b.over = b.parked, nil, true
	return parked, true
}

// park keeps a pod with something to write until the backlog is over; false when
// it is.
func (b *backlog) park(pod types.NamespacedName) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return false
	}
	b.parked = append(b.parked, pod)
	return true
}
