// The startup phase: all pods are placed before anything is written or attached.

package assignedidentity

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// backlog holds the pods that existed when the controller started and are not placed yet. It also
// holds the pods that have something to write once all are placed.
type backlog struct {
	mu    sync.Mutex
	begun bool
	over  bool
	// early are pods placed before the initial list was known. open are the pods of that list that
	// are not placed yet.
	early, open map[types.NamespacedName]bool
	parked      []types.NamespacedName
}

// begin records the initial list of pods and queues those that have not been placed. This includes
// a pod that was deleted between the listing and its first event: without a reconcile it would
// block all others forever.
func (b *backlog) begin(pods []types.NamespacedName, caughtUp func(), wake func(...types.NamespacedName)) {
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
	wake(open...)
	if over {
		caughtUp()
		wake(parked...)
	}
}

// placed records that a pod's needs are known. The last one ends the backlog.
func (b *backlog) placed(pod types.NamespacedName, caughtUp func(), wake func(...types.NamespacedName)) {
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
		wake(parked...)
	}
}

// end returns the parked pods once the backlog is over. The caller must hold mu.
func (b *backlog) end() (parked []types.NamespacedName, over bool) {
	if b.over || !b.begun || len(b.open) > 0 {
		return nil, false
	}
	parked, b.parked, b.over = b.parked, nil, true
	return parked, true
}

// park holds a pod with something to write until the backlog is over. It returns false if the
// backlog is over already.
func (b *backlog) park(pod types.NamespacedName) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return false
	}
	b.parked = append(b.parked, pod)
	return true
}
